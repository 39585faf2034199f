#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/error.hpp"
#include "collective/collectives.hpp"
#include "collective/device/device_collectives.hpp"
#include "device/nccl/poster.hpp"
#include "tests/unit/device/nccl_world.hpp"

namespace scalecom::sim {

/// What the ranks of a simulation share of NCCL. All of them in one thread.
struct SimulatedJob {
  explicit SimulatedJob(std::vector<int> hosts) : host_of_rank(std::move(hosts)) {
    world.expect(host_of_rank);
  }

  std::vector<int> host_of_rank;
  test::NcclWorld world;
  std::vector<std::byte> unique_id;  ///< of rank 0
};

/// A rank's collectives over NCCL, whose calls the simulation makes in place of the thread: one
/// that was begun is in the thread's hands until post(), or until it is given up and comes back.
/// What an aborted one leaves in the stream, and whether it does, a seed says.
class SimulatedNccl {
 public:
  /// Both outlive it; it outlives what connect() gives.
  SimulatedNccl(test::FakeAccelerator& accelerator, SimulatedJob& job, int rank,
                std::uint64_t seed);

  std::unique_ptr<DeviceCollectives> connect();

  /// A call is in the thread's hands.
  bool is_called() const { return call_ != nullptr; }
  /// It is made; false: there is none.
  bool post();
  /// Calls come back with an error from now on.
  void fail() { fails_ = true; }
  /// One has.
  bool has_failed() const { return has_failed_; }
  /// Calls are made as they are begun from now on: an orderly end waits for them.
  void make_at_once() { is_held_back_ = false; }
  /// Operations that ended without results, as NCCL was aborted.
  int skipped() const { return job_.world.skipped(accelerator_); }

 private:
  using Result = device::nccl::Result;
  class Thread;

  void make();
  bool give_up();
  device::nccl::Api make_api();
  template <class Function>
  void hold(Function& function);

  test::FakeAccelerator& accelerator_;
  SimulatedJob& job_;
  const int rank_;
  std::mt19937_64 random_;
  std::unique_ptr<Collectives> host_;
  device::nccl::Poster::Call call_;
  std::optional<Result> result_;
  std::optional<Error> error_;
  bool is_held_back_ = true;
  bool fails_ = false;
  bool has_failed_ = false;
  bool is_aborted_ = false;
};

}  // namespace scalecom::sim
