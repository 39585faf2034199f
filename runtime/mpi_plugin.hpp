#pragma once

#include <memory>
#include <string>

#include "transport/mpi/mpi_backend.hpp"

namespace scalecom {

/// Loads libscalecom_mpi.so, which lies beside this library, and makes its backend. Throws
/// Error(unavailable) with the loader's reason and the remedy. `launched_by` is the variable that
/// says MPI launched this process, for the message.
std::shared_ptr<MpiBackend> load_mpi_backend(const std::string& launched_by);

/// Empty when the plugin and its MPI load here; else the loader's reason. Initialises nothing.
std::string why_mpi_plugin_cannot_load();

}  // namespace scalecom
