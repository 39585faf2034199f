#include "runtime/device/choose_collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <utility>

#include "base/json_line.hpp"
#include "base/log.hpp"
#include "collective/device/alone.hpp"
#include "collective/device/nccl_collectives.hpp"
#include "collective/device/staged_collectives.hpp"
#include "runtime/device/gather_records.hpp"
#include "runtime/device/posting_thread.hpp"
#include "runtime/settings.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// A byte of a problem may take six as JSON.
constexpr std::size_t kProblemBytesMax = 1024;
constexpr std::size_t kRecordBytes = 8 * kProblemBytesMax;
// NCCL lets ranks share a GPU from 2.30.3 on, where it is told to.
constexpr int kSharingVersion = 23003;

using Record = std::array<char, kRecordBytes>;

Record to_record(const DeviceFacts& facts) {
  const nlohmann::json json{{"gpu", facts.gpu},
                            {"nccl_version", facts.nccl_version},
                            {"problem", facts.problem.substr(0, kProblemBytesMax)},
                            {"may_share", facts.may_share}};
  const std::string text = json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  Record record{};
  std::memcpy(record.data(), text.data(), std::min(text.size(), record.size() - 1));
  return record;
}

DeviceFacts from_record(const Record& record) {
  return read_json(record.data(), "what a rank says about its GPU", [](const nlohmann::json& json) {
    return DeviceFacts{json.at("gpu"), json.at("nccl_version"), json.at("problem"),
                       json.at("may_share")};
  });
}

std::vector<DeviceFacts> share(const DeviceFacts& mine, Collectives& host, std::size_t size,
                               const WaitContext& context) {
  std::vector<DeviceFacts> facts;
  for (const Record& record : gather_records(to_record(mine), host, size, context)) {
    facts.push_back(from_record(record));
  }
  return facts;
}

// Every rank says the same, by its settings.
device::nccl::AllReduceAlgorithm algorithm_for_nccl(const std::string& name, int rank) {
  const auto algorithm = device::nccl::all_reduce_algorithm_of(name);
  if (rank == 0 && name != "auto" && algorithm == device::nccl::AllReduceAlgorithm::own_choice) {
    log_warning(
        fmt::format("SCALECOM_ALLREDUCE_ALGORITHM is {}, which NCCL does not have: it "
                    "chooses by itself for CUDA tensors; it has ring and double_tree",
                    name));
  }
  return algorithm;
}

}  // namespace

std::string why_not_nccl(std::span<const DeviceFacts> facts) {
  std::map<std::string, std::size_t> first_on;
  for (std::size_t rank = 0; rank < facts.size(); ++rank) {
    const DeviceFacts& one = facts[rank];
    if (one.nccl_version == 0) return fmt::format("rank {}: {}", rank, one.problem);
    // NCCL refuses any other than its own, down to the last digit.
    if (one.nccl_version != facts[0].nccl_version) {
      return fmt::format("rank 0 has NCCL {} and rank {} has {}; install one version everywhere",
                         device::nccl::version_text(facts[0].nccl_version), rank,
                         device::nccl::version_text(one.nccl_version));
    }
    const auto [found, is_first] = first_on.try_emplace(one.gpu, rank);
    if (is_first || one.may_share) continue;
    return fmt::format(
        "ranks {} and {} share the GPU {}, which NCCL {} refuses; give each rank a GPU of its own, "
        "as torch.cuda.set_device(hvd.local_rank()) does",
        found->second, rank, one.gpu, device::nccl::version_text(one.nccl_version));
  }
  return "";
}

std::unique_ptr<DeviceCollectives> choose_device_collectives(const DeviceCollectivesNeeds& needs,
                                                             const WaitContext& context) {
  if (needs.host_of_rank.size() == 1) return std::make_unique<AloneCollectives>(needs.accelerator);
  const std::string& setting = needs.config.cuda_collectives;
  const auto staged = [&](std::string reason) {
    StagedCollectives::Options options;
    options.reason = std::move(reason);
    return std::make_unique<StagedCollectives>(needs.accelerator, needs.host,
                                               static_cast<int>(needs.host_of_rank.size()),
                                               std::move(options));
  };
  if (setting == "host") return staged("SCALECOM_CUDA_COLLECTIVES is host");
  DeviceFacts mine;
  mine.gpu = needs.host_id + " " + needs.accelerator.bus_id();
  device::nccl::Api api;
  std::unique_ptr<PostingThread> poster;
  try {
    api = needs.load_nccl();
    if (api.comm_split) {
      poster = std::make_unique<PostingThread>(
          [&accelerator = needs.accelerator] { return accelerator.enter(); });
    }
    mine.nccl_version = api.version;
    mine.may_share = nccl_may_share_a_gpu(api.version >= kSharingVersion);
  } catch (const Error& error) {
    mine.problem = error.what();
  }
  const auto facts = share(mine, needs.host, needs.host_of_rank.size(), context);
  const std::string reason = why_not_nccl(facts);
  if (reason.empty()) {
    if (needs.host.rank() == 0 && is_nccl_blocking_set()) {
      log_warning(
          "NCCL_COMM_BLOCKING is set, which takes NCCL's calls out of scalecom's hands: a rank "
          "that is lost may hold the others up for ever; unset it");
    }
    return NcclCollectives::create(
        {.api = std::make_shared<const device::nccl::Api>(std::move(api)),
         .accelerator = needs.accelerator,
         .host = needs.host,
         .host_of_rank = needs.host_of_rank,
         .algorithm = algorithm_for_nccl(needs.config.allreduce_algorithm, needs.host.rank()),
         .poster = std::move(poster)},
        context);
  }
  if (setting == "nccl") {
    throw Error(StatusCode::unavailable,
                fmt::format("SCALECOM_CUDA_COLLECTIVES is nccl, which cannot be had: {}; or leave "
                            "the setting out, and the tensors go through the host's memory",
                            reason));
  }
  if (needs.host.rank() == 0) {
    log_warning(
        fmt::format("CUDA tensors go through the host's memory, since NCCL cannot be used: {}. "
                    "SCALECOM_CUDA_COLLECTIVES=host says that this is meant",
                    reason));
  }
  return staged(reason);
}

}  // namespace scalecom
