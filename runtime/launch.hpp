#pragma once

#include <string>

namespace scalecom {

/// Name of the environment variable by which an MPI launcher (mpirun, srun with PMIx...) says that
/// this process is one of its ranks; empty when none is set. Defined in config_env.cpp.
std::string mpi_launcher_variable();

}  // namespace scalecom
