#pragma once

#include <memory>

#include "transport/mpi/mpi_backend.hpp"

namespace scalecom {

/// See MpiBackendFactory.
std::unique_ptr<MpiBackend> make_mpi_backend();

}  // namespace scalecom
