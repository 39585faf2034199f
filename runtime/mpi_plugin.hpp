#pragma once

#include <memory>
#include <string>

#include "transport/mpi/mpi_backend.hpp"

namespace scalecom {

/// Loads libscalecom_mpi.so, which lies beside this library, and makes its backend. Throws
/// Error(unavailable) with the loader's reason and the remedy. `launched_by` is the variable that
/// says MPI launched this process, for the message.
std::shared_ptr<MpiBackend> load_mpi_backend(const std::string& launched_by);

/// What the plugin finds on this machine. Initialises nothing.
struct MpiPluginFacts {
  std::string problem;  ///< the loader's reason when it cannot be loaded, else empty
  std::string library;  ///< version of its MPI
};
MpiPluginFacts probe_mpi_plugin();

}  // namespace scalecom
