#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/negotiation.hpp"

namespace scalecom::sim {

using Bytes = std::vector<std::byte>;

/// What goes wrong in a run.
enum class DeviceFault {
  none,
  shortage,      ///< some ranks' devices have no memory for the fusion buffers of all lanes
  silent_rank,   ///< one rank and its device do nothing any more
  failing_rank,  ///< one rank's collectives throw
  no_memory,     ///< one rank's device has no more memory than it has given out
  device_error,  ///< one rank's device refuses every call
};

/// A tensor that is submitted once a step, and what a step of it comes to.
struct PlannedTensor {
  std::string name;
  TensorSignature signature;
  bool is_in_place = false;
  std::size_t stream = 0;  ///< of the application's

  struct Step {
    std::vector<Bytes> inputs;       ///< by rank
    std::vector<std::int64_t> rows;  ///< Agreement's first extents
    std::vector<Bytes> results;      ///< by rank, or every rank's

    const Bytes& result_of(int rank) const {
      return results[results.size() == 1 ? 0 : static_cast<std::size_t>(rank)];
    }
  };
  std::vector<Step> steps;
  /// By rank, behind the last step; empty: it is not compressed.
  std::vector<std::vector<float>> residuals;

  /// Its result is the ticket's, which the application copies.
  bool has_own_result() const {
    return signature.kind != OperationKind::all_reduce &&
           signature.kind != OperationKind::broadcast;
  }
};

/// Steps of a training, drawn from a seed, with the results that the host's kernels give.
struct DevicePlan {
  std::uint64_t seed = 0;
  DeviceFault fault = DeviceFault::none;
  int size = 1;
  std::vector<std::size_t> host_of_rank;
  std::size_t steps = 1;
  std::int64_t threshold_bytes = 0;
  std::int64_t health_steps = 0;
  std::size_t ahead_max = 1;  ///< calls that an application has submitted and not read
  /// Memory that each tensor has, in turn, on one stream each: with two the application need not
  /// wait for a step's results before it writes the next one's gradient.
  std::size_t turns = 1;
  std::optional<std::size_t> measures_before;  ///< the call before which devices are measured
  bool is_grouped = false;     ///< a call's tensors are all written before they are submitted
  bool ends_at_once = false;   ///< after a failure, with all that is enqueued
  std::size_t free_bytes = 0;  ///< shortage: what a device has for fusion buffers
  std::vector<PlannedTensor> tensors;
  std::vector<std::vector<std::size_t>> calls;  ///< of each step, in this order: places in tensors

  /// The ranks' collectives are NCCL's, and not a Meeting's.
  bool is_over_nccl() const { return seed % 2 == 0; }
  std::size_t call_count() const { return steps * calls.size(); }
  const std::vector<std::size_t>& call(std::size_t number) const {
    return calls[number % calls.size()];
  }
  std::size_t step_of(std::size_t call) const { return call / calls.size(); }
  /// What the ranks agree on for a call, as `rank` knows it.
  Agreement agreement(std::size_t call, int rank) const;
  /// For people: how to run it again.
  std::string description() const;
};

DevicePlan make_device_plan(std::uint64_t seed, DeviceFault fault);

}  // namespace scalecom::sim
