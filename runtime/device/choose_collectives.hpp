#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collective/collectives.hpp"
#include "collective/device/device_collectives.hpp"
#include "device/nccl/api.hpp"
#include "scalecom/config.hpp"

namespace scalecom {

/// What a rank tells the others about its GPU.
struct DeviceFacts {
  std::string gpu;       ///< equal where ranks share one: host and bus
  int nccl_version = 0;  ///< 0: there is none, and `problem` says why
  std::string problem;
  bool may_share = false;  ///< this rank's NCCL was told that ranks may share a GPU
};

/// Why these ranks cannot use NCCL together; empty: they can. Pure.
std::string why_not_nccl(std::span<const DeviceFacts> facts);

/// What a rank chooses with. `accelerator` and `host` outlive the collectives.
struct DeviceCollectivesNeeds {
  Accelerator& accelerator;
  Collectives& host;
  const Config& config;
  std::string host_id;            ///< equal on ranks of one host
  std::vector<int> host_of_rank;  ///< by number, as `host` sees them
  std::function<device::nccl::Api()> load_nccl;
};

/// Collectives for tensors of `accelerator`, by SCALECOM_CUDA_COLLECTIVES: NCCL's, or the host's
/// behind copies. All ranks call it at once, with nothing under way in `host`, and come to the same
/// choice. Throws Error: unavailable, with the remedy, where NCCL is demanded and cannot be had.
std::unique_ptr<DeviceCollectives> choose_device_collectives(const DeviceCollectivesNeeds& needs,
                                                             const WaitContext& context);

}  // namespace scalecom
