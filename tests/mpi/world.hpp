#pragma once

#include "mpi_plugin/mpi_backend.hpp"

namespace scalecom::test {

/// Of an exchange. Longer than a case may hold a rank up.
inline constexpr Bootstrap::Limit kLimit{60.0};

/// MPI of this process, initialised once.
MpiBackend& mpi_world();

}  // namespace scalecom::test
