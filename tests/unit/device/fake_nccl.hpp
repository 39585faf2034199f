#pragma once

#include <fmt/format.h>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "device/nccl/communicator.hpp"

namespace scalecom::device::nccl {

inline WaitContext patience(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  return {Deadline::after(limit), nullptr};
}

inline CommHandle handle_of(std::size_t number) { return reinterpret_cast<CommHandle>(number); }

/// NCCL that answers from a script, and remembers what it was asked.
class FakeNccl {
 public:
  FakeNccl() {
    api.path = "fake";
    api.version = 22809;
    api.get_unique_id = [this](UniqueId*) { return answer("id"); };
    api.comm_init_rank_config = [this](CommHandle* comm, int ranks, UniqueId, int rank,
                                       CommConfig* config) {
      *comm = handle_of(++made_);
      const Result result =
          answer(fmt::format("init {} of {} blocking {}", rank, ranks, config->blocking));
      connecting_ = result == Result::in_progress ? comm : nullptr;
      return result;
    };
    api.comm_split = [this](CommHandle, int color, int key, CommHandle* comm, CommConfig* config) {
      *comm = color < 0 ? nullptr : handle_of(++made_);
      return answer(fmt::format("split {} {} blocking {}", color, key, config->blocking));
    };
    api.comm_finalize = [this](CommHandle comm) { return answer("finalize", comm); };
    api.comm_destroy = [this](CommHandle comm) { return answer("destroy", comm); };
    api.comm_abort = [this](CommHandle comm) {
      // At its end NCCL's thread that connects writes the handle once more; an abort waits for it.
      if (connecting_ != nullptr) *std::exchange(connecting_, nullptr) = comm;
      return answer("abort", comm);
    };
    api.comm_get_async_error = [this](CommHandle, Result* error) {
      *error = states.empty() ? always : states.front();
      if (!states.empty()) states.pop_front();
      ++polls;
      return poll_result;
    };
    api.get_error_string = [](Result result) {
      return result == Result::remote_error ? "remote process exited" : "unhandled error";
    };
    api.get_last_error = [this](CommHandle) { return last_error.c_str(); };
    api.all_reduce = [this](const void*, void*, std::size_t count, ElementType type,
                            Reduction reduction, CommHandle comm, StreamHandle) {
      return answer(fmt::format("all_reduce {} {} {}", count, int(type), int(reduction)), comm);
    };
    api.reduce_scatter = [this](const void*, void*, std::size_t count, ElementType type,
                                Reduction reduction, CommHandle comm, StreamHandle) {
      return answer(fmt::format("reduce_scatter {} {} {}", count, int(type), int(reduction)), comm);
    };
    api.broadcast = [this](const void*, void*, std::size_t count, ElementType type, int root,
                           CommHandle comm, StreamHandle) {
      return answer(fmt::format("broadcast {} {} {}", count, int(type), root), comm);
    };
    api.all_gather = [this](const void*, void*, std::size_t count, ElementType type,
                            CommHandle comm, StreamHandle) {
      return answer(fmt::format("all_gather {} {}", count, int(type)), comm);
    };
    api.send = [this](const void* from, std::size_t count, ElementType, int peer, CommHandle,
                      StreamHandle) {
      return answer(fmt::format("send {} to {} at {}", count, peer, place(from)));
    };
    api.receive = [this](void* to, std::size_t count, ElementType, int peer, CommHandle,
                         StreamHandle) {
      return answer(fmt::format("receive {} from {} at {}", count, peer, place(to)));
    };
    api.group_start = [this] { return answer("group_start"); };
    api.group_end = [this] { return answer("group_end"); };
  }

  std::unique_ptr<Communicator> connect() {
    auto made = Communicator::create(shared(), {}, 1, 3, patience());
    calls.clear();
    polls = 0;
    return made;
  }

  /// As this object: the test may change its functions.
  std::shared_ptr<const Api> shared() const { return {std::shared_ptr<void>(), &api}; }

  Api api;
  std::map<std::string, Result> results;  ///< by the call's first word; success else
  std::deque<Result> states;              ///< of the communicator, one for each poll
  Result always = Result::success;        ///< its state after those
  Result poll_result = Result::success;
  std::string last_error;
  std::vector<std::string> calls;
  std::string by;  ///< who makes the calls
  int polls = 0;
  std::array<std::byte, 64> memory{};

 private:
  Result answer(const std::string& call) {
    calls.push_back(call + by);
    const auto found = results.find(call.substr(0, call.find(' ')));
    return found == results.end() ? Result::success : found->second;
  }
  Result answer(const std::string& call, CommHandle comm) {
    return answer(fmt::format("{} on {}", call, reinterpret_cast<std::size_t>(comm)));
  }
  long place(const void* address) const {
    return static_cast<const std::byte*>(address) - memory.data();
  }

  std::size_t made_ = 0;
  CommHandle* connecting_ = nullptr;
};

/// Makes calls at once, noting that it is who makes them.
class NotingPoster final : public Poster {
 public:
  explicit NotingPoster(FakeNccl& nccl) : nccl_(nccl) {}

  void start(Call call) override {
    nccl_.by = " by the poster";
    result_ = call();
    nccl_.by = "";
  }
  std::optional<Result> result() override { return result_; }
  bool give_up() noexcept override { return true; }

 private:
  FakeNccl& nccl_;
  Result result_ = Result::success;
};

}  // namespace scalecom::device::nccl
