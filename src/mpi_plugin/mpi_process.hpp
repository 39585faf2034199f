#pragma once

#include <string>

namespace scalecom {

/// Makes MPI ready in this process. Initialises it (asking for MPI_THREAD_MULTIPLE) only when
/// nobody has, and then finalizes it at the process's exit, because MPI cannot be initialised
/// twice. Throws Error(unavailable) when the thread level is below MPI_THREAD_SERIALIZED, naming
/// it, or when MPI has been finalized already.
void ensure_mpi();

/// By whomever.
bool is_mpi_finalized() noexcept;

/// The process will not finalize MPI: a rank is lost, and MPI_Finalize would wait for it for ever.
void renounce_finalize() noexcept;

/// "MPI_THREAD_MULTIPLE", ...
std::string mpi_thread_level();

/// MpiBackend::cuda_aware(). Once MPI is initialised: MPICH ends a process that asks before.
std::string mpi_cuda_aware();

/// First line of MPI_Get_library_version.
std::string mpi_library_version();

}  // namespace scalecom
