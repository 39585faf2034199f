#pragma once

#include <string>

namespace scalecom {

/// How an MPI launcher (mpirun, srun with PMIx...) says that this process is one of its ranks.
struct MpiLaunch {
  std::string variable;  ///< of the environment; empty: no launcher
  int ranks = 0;         ///< that it started; 0 where it does not say

  explicit operator bool() const noexcept { return !variable.empty(); }
};

/// Defined in config_env.cpp.
MpiLaunch find_mpi_launch();

}  // namespace scalecom
