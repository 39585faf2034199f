#pragma once

#include <array>
#include <climits>
#include <cstddef>
#include <functional>
#include <string>

#include "device/cuda/stream.hpp"

// NCCL's own name behind ncclComm_t.
struct ncclComm;

namespace scalecom::device::nccl {

using cuda::StreamHandle;

/// The part of NCCL's binary interface that is used here, in declarations of our own: the same
/// from 2.14 (the first that does not block) through all of NCCL 2.
using CommHandle = ncclComm*;

enum class Result : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};

enum class ElementType : int {
  int8 = 0,
  uint8 = 1,
  int32 = 2,
  int64 = 4,
  float16 = 6,
  float32 = 7,
  float64 = 8,
  bfloat16 = 9,
};

enum class Reduction : int { sum = 0, product = 1, max = 2, min = 3, average = 4 };

/// What rank 0 makes and gives to the others; NCCL takes it by value.
struct UniqueId {
  std::array<char, 128> bytes{};
};

/// The configuration as 2.14 knows it: newer versions read `size` and `version`, and choose what
/// is not there. The last member is where they look for another, in what would be padding.
struct CommConfig {
  std::size_t size = sizeof(CommConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
  int undefined = INT_MIN;
};

inline constexpr int kVersionMin = 21400;
inline constexpr int kVersionEnd = 30000;

/// NCCL as functions, so that tests give theirs. Names and arguments are NCCL's.
struct Api {
  std::string path;  ///< of the library
  int version = 0;   ///< 22809 is 2.28.9

  std::function<Result(UniqueId* id)> get_unique_id;
  std::function<Result(CommHandle* comm, int ranks, UniqueId id, int rank, CommConfig* config)>
      comm_init_rank_config;
  /// Null before 2.18.
  std::function<Result(CommHandle comm, int color, int key, CommHandle* made, CommConfig* config)>
      comm_split;
  std::function<Result(CommHandle comm)> comm_finalize;
  std::function<Result(CommHandle comm)> comm_destroy;
  std::function<Result(CommHandle comm)> comm_abort;
  std::function<Result(CommHandle comm, Result* error)> comm_get_async_error;
  std::function<const char*(Result result)> get_error_string;
  std::function<const char*(CommHandle comm)> get_last_error;

  std::function<Result(const void* from, void* to, std::size_t count, ElementType type,
                       Reduction reduction, CommHandle comm, StreamHandle stream)>
      all_reduce;
  std::function<Result(const void* from, void* to, std::size_t count, ElementType type, int root,
                       CommHandle comm, StreamHandle stream)>
      broadcast;
  std::function<Result(const void* from, void* to, std::size_t count_sent, ElementType type,
                       CommHandle comm, StreamHandle stream)>
      all_gather;
  std::function<Result(const void* from, void* to, std::size_t count_received, ElementType type,
                       Reduction reduction, CommHandle comm, StreamHandle stream)>
      reduce_scatter;
  std::function<Result(const void* from, void* to, std::size_t count, ElementType type,
                       Reduction reduction, int root, CommHandle comm, StreamHandle stream)>
      reduce;
  std::function<Result(const void* from, std::size_t count, ElementType type, int peer,
                       CommHandle comm, StreamHandle stream)>
      send;
  std::function<Result(void* to, std::size_t count, ElementType type, int peer, CommHandle comm,
                       StreamHandle stream)>
      receive;
  std::function<Result()> group_start;
  std::function<Result()> group_end;
};

/// Files of NCCL besides what the process has loaded and what the loader finds.
struct Files {
  std::string named = {};    ///< SCALECOM_NCCL_LIBRARY; empty: it is not set
  std::string offered = {};  ///< that of PyPI's nvidia-nccl-cu*, say; empty: none
};

/// NCCL of this process: the file that is named and no other. Without one the copy that is in the
/// process, as torch's is, else the one that is offered, else the system's libnccl.so.2; further
/// copies in the process are warned of. What is offered comes before the system's, as frameworks of
/// the same installation load it, too, perhaps later. Never unloaded.
/// Throws Error(unavailable), which names paths, versions and the remedy: nothing loads, the
/// process has another file than the named, or a version outside of kVersionMin to kVersionEnd.
Api load_api(const Files& files = {});

/// Which one load_api() would load: the same errors, but it is let go again.
struct Facts {
  std::string path = {};
  int version = 0;
};
Facts probe(const Files& files = {});

/// Throws Error(unavailable) for a version that this library cannot use.
void check_version(int version, const std::string& path);

/// "2.28.9".
std::string version_text(int version);

}  // namespace scalecom::device::nccl
