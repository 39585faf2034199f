#pragma once

#include "transport/mpi/mpi_backend.hpp"

namespace scalecom::test {

/// MPI of this process, initialised once.
MpiBackend& mpi_world();

}  // namespace scalecom::test
