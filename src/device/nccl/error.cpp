#include "device/nccl/error.hpp"

#include "base/lost_rank.hpp"

#include <fmt/format.h>

namespace scalecom::device::nccl {
namespace {

StatusCode code_of(Result result) {
  switch (result) {
    case Result::remote_error: return StatusCode::rank_lost;
    case Result::internal_error:
    case Result::invalid_argument: return StatusCode::internal;
    default: return StatusCode::unavailable;
  }
}

bool says(const std::string& message, const char* words) {
  return message.find(words) != std::string::npos;
}

std::string remedy(Result result, const std::string& message) {
  // The latter are the words from 2.30 on.
  if (says(message, "Duplicate GPU") || says(message, "are using the same GPU")) {
    return "two ranks use one GPU: give each its own (torch.cuda.set_device(local_rank)), or set "
           "NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL 2.30 or newer)";
  }
  if (says(message, "interface found")) {
    return "NCCL_SOCKET_IFNAME names the network interface that leads to the other hosts";
  }
  if (says(message, "shared memory") || says(message, "/dev/shm")) {
    return "/dev/shm is too small: in a container raise --shm-size, or set NCCL_SHM_DISABLE=1";
  }
  if (says(message, "stream is capturing")) {
    return "this process captures a CUDA graph meanwhile, which NCCL's connections end: call the "
           "collectives once before the capture";
  }
  switch (result) {
    case Result::unhandled_cuda_error:
      return "NCCL_DEBUG=WARN names the CUDA call; out of memory and a driver older than NCCL's "
             "CUDA are common causes";
    case Result::system_error:
      return "NCCL_DEBUG=WARN names the system call; NCCL_SOCKET_IFNAME, ulimit -n and ulimit -l "
             "are common causes";
    case Result::remote_error:
      return std::string("another rank's process or its network is gone: ") + kLostRankRemedy;
    case Result::invalid_usage:
      return "NCCL_DEBUG=WARN says what it takes for a wrong use; ranks with different versions "
             "of NCCL are a common cause";
    default: return "please report it, with the output of NCCL_DEBUG=INFO";
  }
}

}  // namespace

Error error_of(const Api& api, Result result, CommHandle comm, const std::string& what) {
  const char* name = api.get_error_string(result);
  const char* last = api.get_last_error(comm);
  const std::string message = last != nullptr ? last : "";
  return {code_of(result),
          fmt::format("{} failed in NCCL {}: {}{}{}; {}", what, version_text(api.version),
                      name != nullptr ? name : "an unknown error", message.empty() ? "" : ": ",
                      message, remedy(result, message))};
}

Error missing_split(const Api& api) {
  return {StatusCode::unavailable,
          fmt::format("groups of ranks need NCCL 2.18 or newer, and {} is {}", api.path,
                      version_text(api.version))};
}

}  // namespace scalecom::device::nccl
