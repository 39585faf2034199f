#include "tests/sim/simulated_nccl.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "collective/device/nccl_collectives.hpp"
#include "tests/sim/refusing_collectives.hpp"

namespace scalecom::sim {
namespace {

// No wait of a run lasts: one that does is an error.
WaitContext patience() { return {Deadline::after(std::chrono::seconds(10)), nullptr}; }

/// The host's collectives, of which NCCL's need the unique id of rank 0. It connects first.
class IdBroadcast final : public RefusingCollectives {
 public:
  IdBroadcast(SimulatedJob& job, int rank) : job_(job), rank_(rank) {}

  std::string_view name() const noexcept override { return "the unique id"; }
  int rank() const noexcept override { return rank_; }
  int host_size() const noexcept override {
    const std::vector<int>& hosts = job_.host_of_rank;
    return static_cast<int>(std::ranges::count(hosts, hosts[static_cast<std::size_t>(rank_)]));
  }
  void broadcast(std::span<std::byte> data, int root, const WaitContext&) override {
    if (rank_ == root) job_.unique_id.assign(data.begin(), data.end());
    std::ranges::copy(job_.unique_id, data.begin());
  }

 private:
  SimulatedJob& job_;
  const int rank_;
};

}  // namespace

/// What the collectives see of the thread. They may be gone while it has a call.
class SimulatedNccl::Thread final : public device::nccl::Poster {
 public:
  explicit Thread(SimulatedNccl& owner) : owner_(owner) {}

  void start(Call call) override {
    SCALECOM_ASSERT(!owner_.is_called(), "a call before the end of the one before it");
    owner_.call_ = std::move(call);
    owner_.result_.reset();
    owner_.error_.reset();
    if (!owner_.is_held_back_) owner_.make();
  }
  std::optional<Result> result() override {
    if (owner_.error_) throw Error(*owner_.error_);
    return owner_.result_;
  }
  bool give_up() noexcept override { return owner_.give_up(); }

 private:
  SimulatedNccl& owner_;
};

SimulatedNccl::SimulatedNccl(test::FakeAccelerator& accelerator, SimulatedJob& job, int rank,
                             std::uint64_t seed)
    : accelerator_(accelerator),
      job_(job),
      rank_(rank),
      random_(seed),
      host_(std::make_unique<IdBroadcast>(job, rank)) {}

std::unique_ptr<DeviceCollectives> SimulatedNccl::connect() {
  return NcclCollectives::create({.api = std::make_shared<const device::nccl::Api>(make_api()),
                                  .accelerator = accelerator_,
                                  .host = *host_,
                                  .host_of_rank = job_.host_of_rank,
                                  .poster = std::make_unique<Thread>(*this)},
                                 patience());
}

// What it throws is the collectives' to tell.
void SimulatedNccl::make() {
  try {
    result_ = std::exchange(call_, nullptr)();
  } catch (const Error& error) {
    error_ = error;
  }
}

bool SimulatedNccl::post() {
  if (!is_called()) return false;
  make();
  return true;
}

// One that is aborted comes back.
bool SimulatedNccl::give_up() {
  if (is_called() && (is_aborted_ || random_() % 2 == 0)) make();
  return !is_called();
}

template <class Function>
void SimulatedNccl::hold(Function& function) {
  function = [this, real = std::move(function)](auto... arguments) {
    const auto entered = accelerator_.enter();
    has_failed_ = has_failed_ || fails_;
    if (fails_) return Result::remote_error;
    if (is_aborted_ && random_() % 2 == 0) return Result::internal_error;
    return real(arguments...);
  };
}

device::nccl::Api SimulatedNccl::make_api() {
  device::nccl::Api api = job_.world.make_api(accelerator_);
  hold(api.all_reduce);
  hold(api.broadcast);
  hold(api.all_gather);
  hold(api.reduce_scatter);
  hold(api.reduce);
  hold(api.send);
  hold(api.receive);
  api.comm_abort = [this, real = std::move(api.comm_abort)](device::nccl::CommHandle comm) {
    is_aborted_ = true;
    return real(comm);
  };
  return api;
}

}  // namespace scalecom::sim
