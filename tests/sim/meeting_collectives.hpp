#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "collective/device/device_collectives.hpp"
#include "kernels/reduce.hpp"
#include "tests/sim/device_plan.hpp"
#include "tests/support/fake_accelerator.hpp"

namespace scalecom::sim {

/// Where the operations of all ranks meet: what each rank has put in. All of them in one thread.
class Meeting {
 public:
  /// Both outlive it.
  Meeting(int size, std::vector<std::string>& violations)
      : size_(static_cast<std::size_t>(size)), violations_(violations) {}

  /// Rank's data for its operation of this number, which is `call` on all ranks.
  void put(std::size_t number, int rank, const std::string& call, Bytes data) {
    if (number >= operations_.size()) operations_.resize(number + 1);
    Operation& operation = operations_[number];
    if (operation.given == 0) operation.call = call;
    if (operation.call != call) {
      violations_.push_back(fmt::format("operation {} is {} on rank {}, elsewhere {}", number, call,
                                        rank, operation.call));
    }
    operation.data.resize(size_);
    operation.data[static_cast<std::size_t>(rank)] = std::move(data);
    ++operation.given;
  }
  /// Every rank's; null: not all are there.
  const std::vector<Bytes>* find(std::size_t number) const {
    return operations_[number].given == size_ ? &operations_[number].data : nullptr;
  }
  int size() const { return static_cast<int>(size_); }

 private:
  struct Operation {
    std::string call;
    std::size_t given = 0;
    std::vector<Bytes> data;
  };
  const std::size_t size_;
  std::vector<std::string>& violations_;
  std::vector<Operation> operations_;
};

/// One rank's collectives on a fake accelerator. An operation stays unposted for as many advances
/// as a seed says, and is enqueued with one of them; it is done when every rank's stream has come
/// to it.
class MeetingCollectives final : public DeviceCollectives {
 public:
  /// What outlives the collectives in operations that are enqueued.
  struct State {
    bool is_aborted = false;
    int skipped = 0;  ///< operations that ended without results, as it was aborted
  };

  /// Both outlive it.
  MeetingCollectives(test::FakeAccelerator& accelerator, Meeting& meeting, int rank,
                     std::uint64_t seed)
      : accelerator_(accelerator), meeting_(meeting), rank_(rank), random_(seed) {}

  const std::shared_ptr<State>& state() const { return state_; }
  /// From now on calls throw: another rank is lost.
  void fail() { has_failed_ = true; }

  std::string_view name() const noexcept override { return "meeting"; }
  std::string description() const override { return "ranks that meet in one thread"; }
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return meeting_.size(); }
  int host_size() const noexcept override { return 1; }

  void all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op, Span span,
                  StreamHandle stream, const WaitContext&) override {
    SCALECOM_ASSERT(span == Span::all, "no two ranks are on one host");
    const auto bytes = static_cast<std::size_t>(count * size_of(dtype));
    start(stream, {data, bytes}, {data, bytes}, data,
          fmt::format("all-reduce of {} {}", count, to_string(dtype)),
          [=](const std::vector<Bytes>& all) {
            std::copy(all.front().begin(), all.front().end(), data);
            for (std::size_t r = 1; r < all.size(); ++r) {
              kernels::reduce(data, data, all[r].data(), count, dtype, op);
            }
          });
  }

  void all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank, StreamHandle stream,
                  const WaitContext&) override {
    std::string call = "all-gather of";
    std::int64_t before = 0;
    std::int64_t total = 0;
    for (std::size_t r = 0; r < bytes_per_rank.size(); ++r) {
      if (static_cast<int>(r) == rank_) before = total;
      total += bytes_per_rank[r];
      call += fmt::format(" {}", bytes_per_rank[r]);
    }
    const auto mine = static_cast<std::size_t>(bytes_per_rank[static_cast<std::size_t>(rank_)]);
    start(stream, {all + before, mine}, {all, static_cast<std::size_t>(total)}, all,
          std::move(call), [all](const std::vector<Bytes>& parts) {
            std::byte* place = all;
            for (const Bytes& part : parts) place = std::copy(part.begin(), part.end(), place);
          });
  }

  void broadcast(std::byte*, std::int64_t, int, StreamHandle, const WaitContext&) override {
    refuse();
  }
  void reduce_scatter(std::byte*, std::span<const std::int64_t>, DataType, ReduceOp, StreamHandle,
                      const WaitContext&) override {
    refuse();
  }
  void all_to_all(const std::byte*, std::span<const std::int64_t>, std::byte*,
                  std::span<const std::int64_t>, StreamHandle, const WaitContext&) override {
    refuse();
  }

  bool advance(const WaitContext&) override {
    check();
    if (unposted_.empty()) return false;
    Unposted& first = unposted_.front();
    if (first.advances == first.enqueue_at) enqueue(first);
    if (first.advances-- > 0) return false;
    unposted_.pop_front();
    return true;
  }
  bool is_posted() const noexcept override { return unposted_.empty(); }
  void check() override {
    if (has_failed_) throw Error(StatusCode::rank_lost, "a rank is lost");
  }
  void close(const WaitContext&) override {}
  void abort() noexcept override {
    state_->is_aborted = true;
    unposted_.clear();
  }
  TransportCounters counters() const noexcept override { return {}; }

 private:
  using Receive = std::function<void(const std::vector<Bytes>&)>;
  struct Unposted {
    StreamHandle stream = nullptr;
    test::Operation operation;
    int advances = 0;    ///< until it is known to be posted
    int enqueue_at = 0;  ///< so many of them before that
  };

  static void refuse() { SCALECOM_ASSERT(false, "no run has such batches"); }

  void start(StreamHandle stream, test::MemoryUse from, test::MemoryUse to, std::byte* result,
             std::string call, Receive receive) {
    check();
    Unposted made{stream, {"collective", {from, to}, false, {}}};
    if (random_() % 2 == 0) made.advances = static_cast<int>(random_() % 6);
    made.enqueue_at = static_cast<int>(random_() % static_cast<unsigned>(made.advances + 1));
    made.operation.run = [&meeting = meeting_, state = state_, rank = rank_, number = started_++,
                          from, to, result, call = std::move(call), receive = std::move(receive),
                          has_given = false]() mutable {
      if (state->is_aborted) {
        ++state->skipped;
        std::fill_n(result, to.bytes, std::byte{0});  // Whatever: no offset beyond its chunk.
        return true;
      }
      if (!std::exchange(has_given, true)) {
        const auto* const begin = static_cast<const std::byte*>(from.begin);
        meeting.put(number, rank, call, Bytes(begin, begin + from.bytes));
      }
      const std::vector<Bytes>* const all = meeting.find(number);
      if (all == nullptr) return false;
      receive(*all);
      return true;
    };
    if (made.advances == 0) return enqueue(made);
    unposted_.push_back(std::move(made));
  }

  void enqueue(Unposted& one) { accelerator_.enqueue(one.stream, std::move(one.operation)); }

  test::FakeAccelerator& accelerator_;
  Meeting& meeting_;
  const int rank_;
  std::mt19937_64 random_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  bool has_failed_ = false;
  std::size_t started_ = 0;
  std::deque<Unposted> unposted_;
};

}  // namespace scalecom::sim
