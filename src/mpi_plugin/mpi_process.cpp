#include "mpi_plugin/mpi_process.hpp"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "transport/mpi/mpi_call.hpp"

/// An extension of Open MPI's and MPICH's, which a build of either may lack: null then.
extern "C" int query_cuda_support() __asm__("MPIX_Query_cuda_support") __attribute__((weak));

namespace scalecom {
namespace {

// One MPI per process: whether this library has to end it is a fact of the process. 0 when it has
// not; a process forked from this one has another number, and no MPI to end.
std::atomic<pid_t>& finalizing_process() {
  static std::atomic<pid_t> process{0};
  return process;
}

// Whose MPI this is. A forked process has it in its memory, and would send in the other's name.
void refuse_forked() {
  static std::atomic<pid_t> user{0};
  pid_t before = 0;
  if (user.compare_exchange_strong(before, getpid()) || before == getpid()) return;
  throw Error(StatusCode::unavailable,
              "this process was forked from one that uses MPI, and cannot use it too: leave init() "
              "and collectives to that one, which is the job's rank");
}

void finalize_at_exit() {
  if (finalizing_process() == getpid() && !is_mpi_finalized()) MPI_Finalize();
}

std::string level_name(int level) {
  switch (level) {
    case MPI_THREAD_SINGLE: return "MPI_THREAD_SINGLE";
    case MPI_THREAD_FUNNELED: return "MPI_THREAD_FUNNELED";
    case MPI_THREAD_SERIALIZED: return "MPI_THREAD_SERIALIZED";
    case MPI_THREAD_MULTIPLE: return "MPI_THREAD_MULTIPLE";
    default: return "thread level " + std::to_string(level);
  }
}

void initialise() {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  finalizing_process() = getpid();
  std::atexit(finalize_at_exit);
}

}  // namespace

void ensure_mpi() {
  refuse_forked();
  int is_initialized = 0;
  MPI_Initialized(&is_initialized);
  if (is_mpi_finalized()) {
    throw Error(StatusCode::unavailable,
                "MPI has been finalized in this process and cannot be used again; call init() "
                "before MPI_Finalize");
  }
  const bool is_ours = is_initialized == 0;
  if (is_ours) initialise();
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  if (level >= MPI_THREAD_SERIALIZED) return;
  throw Error(StatusCode::unavailable,
              is_ours ? "this MPI offers only " + level_name(level) +
                            ", and scalecom calls it from a background thread; use an MPI built "
                            "with MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE"
                      : "the program initialised MPI with " + level_name(level) +
                            ", and scalecom calls it from a background thread; initialise it with "
                            "MPI_Init_thread(..., MPI_THREAD_MULTIPLE, ...), or let scalecom do it "
                            "by calling init() first");
}

bool is_mpi_finalized() noexcept {
  int is_finalized = 0;
  MPI_Finalized(&is_finalized);
  return is_finalized != 0;
}

void renounce_finalize() noexcept { finalizing_process() = 0; }

std::string mpi_thread_level() {
  int level = MPI_THREAD_SINGLE;
  MPI_Query_thread(&level);
  return level_name(level);
}

std::string mpi_cuda_aware() {
  if (query_cuda_support == nullptr) return "not said";
  return query_cuda_support() != 0 ? "yes" : "no";
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string version(text);
  std::replace(version.begin(), version.end(), '\t', ' ');
  return version.substr(0, version.find_first_of(",\n"));
}

}  // namespace scalecom
