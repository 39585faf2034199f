#pragma once

#include <optional>
#include <string>

#include "runtime/control/rendezvous.hpp"
#include "scalecom/config.hpp"

namespace scalecom {

/// Of the environment: what the mpirun of MPICH, and of others with its interface, sets.
inline constexpr const char* kMpichVariable = "PMI_SIZE";

/// How an MPI launcher (mpirun, srun with PMIx...) says that this process is one of its ranks.
struct MpiLaunch {
  std::string variable;  ///< of the environment; empty: no launcher
  int ranks = 0;         ///< that it started; 0 where nothing says it

  explicit operator bool() const noexcept { return !variable.empty(); }
};

/// Nothing in a process that torchrun started (TORCHELASTIC_RUN_ID): an MPI launcher's variables
/// are then those of torchrun itself. Defined in config_env.cpp.
MpiLaunch find_mpi_launch();

/// How the environment says which rank of a job without MPI this process is: RANK, WORLD_SIZE and
/// the others that torchrun sets, or what srun does.
struct RankLaunch {
  int rank = 0;
  int size = 1;
  std::string master_address;              ///< empty where it is not set
  int master_port = 0;                     ///< 0 where it is not set
  HostSpread hosts = HostSpread::unknown;  ///< by LOCAL_WORLD_SIZE, or as srun says
  std::string attempt;  ///< tells one start by torchrun, or step of Slurm's, from another
  std::string launcher = "RANK and WORLD_SIZE";  ///< for people
  std::string advice = {};                       ///< that of the Rendezvous
};

/// Where they meet, from that and SCALECOM_RENDEZVOUS. Throws Error(invalid_argument) where nothing
/// says it. Pure; defined in launch.cpp.
Rendezvous plan_rendezvous(const RankLaunch& launch, const Config& config);

/// Nothing where neither RANK nor WORLD_SIZE is set, or that is the size of a step of srun's.
/// Throws Error(invalid_argument) for one without the other, and for a value that is not allowed.
/// Defined in config_env.cpp.
std::optional<RankLaunch> find_rank_launch();

/// The same by what srun sets in each process of a step, where no MPI's way was asked for (srun's
/// --mpi=none); MASTER_ADDR and MASTER_PORT count where they are set. Nothing elsewhere: in a batch
/// script, too. Defined in config_env.cpp.
std::optional<RankLaunch> find_slurm_launch();

}  // namespace scalecom
