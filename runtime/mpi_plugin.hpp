#pragma once

#include <memory>
#include <string>

#include "mpi_plugin/mpi_backend.hpp"
#include "runtime/launch.hpp"

namespace scalecom {

/// Loads libscalecom_mpi.so, libscalecom_mpich.so or libscalecom_mpi12.so, which lie beside this
/// library, and makes its backend: that of the MPI which the process has loaded or was launched by.
/// Throws Error(unavailable) with the loader's reason and the remedy, or where the launcher is
/// another MPI's, ranks_missing() when not all ranks come within `limit`. A rank that initialises
/// MPI waits for all others in MPI_Init, which knows no deadline: it runs on a thread of its own,
/// which is left behind when the time is over, or the interrupt throws.
std::shared_ptr<MpiBackend> load_mpi_backend(const MpiLaunch& launch, Bootstrap::Limit limit,
                                             Interrupt& interrupt);

/// A session has ended here. Ranks that shut it down meet once more: one that died as the others did
/// is not missed by them, but MPI_Finalize, at the process's exit, would wait for it for ever. Where
/// not all come, as where the session failed, this process ends without MPI_Finalize.
void part(MpiBackend& backend, const Status& status);

/// What the plugin that load_mpi_backend() would take finds here. Initialises nothing.
struct MpiPluginFacts {
  std::string problem;  ///< the loader's reason when it cannot be loaded, else empty
  std::string library;  ///< version of its MPI
};
MpiPluginFacts probe_mpi_plugin();

}  // namespace scalecom
