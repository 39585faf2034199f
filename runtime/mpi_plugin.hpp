#pragma once

#include <memory>
#include <string>

#include "mpi_plugin/mpi_backend.hpp"
#include "runtime/launch.hpp"

namespace scalecom {

class Coordinator;

/// Loads libscalecom_mpi.so, libscalecom_mpich.so or libscalecom_mpi12.so, which lie beside this
/// library, and makes its backend: that of the MPI which the process has loaded or was launched by.
/// Throws Error(unavailable) with the loader's reason and the remedy, or where the launcher is
/// another MPI's, ranks_missing() when not all ranks come within `limit`. A rank that initialises
/// MPI waits for all others in MPI_Init, which knows no deadline: it runs on a thread of its own,
/// which is left behind when the time is over, or the interrupt throws; from then on this throws
/// Error(unavailable), since MPI cannot begin anew in a process.
std::shared_ptr<MpiBackend> load_mpi_backend(const MpiLaunch& launch, Bootstrap::Limit limit,
                                             Interrupt& interrupt);

/// A session has ended here: its coordinator has run. Where that is in order, agreed on by all
/// ranks, they meet once more: one that dies while the others shut down is not noticed by them, and
/// MPI_Finalize, at the process's exit, would wait for it for ever. Where not all come, or the end
/// was another one, this process will not call that. (One that dies behind the meeting is still
/// waited for.)
void end_mpi(MpiBackend& backend, Coordinator& coordinator);

/// What the plugin that load_mpi_backend() would take finds here. Initialises nothing.
struct MpiPluginFacts {
  std::string problem;  ///< the loader's reason when it cannot be loaded, else empty
  std::string library;  ///< version of its MPI
};
MpiPluginFacts probe_mpi_plugin();

}  // namespace scalecom
