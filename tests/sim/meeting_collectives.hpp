#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
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
#include "tests/sim/meeting.hpp"
#include "tests/support/fake_accelerator.hpp"

namespace scalecom::sim {

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

  /// The accelerator and the meetings outlive it.
  MeetingCollectives(test::FakeAccelerator& accelerator, Meetings& meetings, int rank,
                     std::uint64_t seed)
      : accelerator_(accelerator),
        all_(meetings.all(rank)),
        inside_(meetings.inside(rank)),
        rank_(rank),
        random_(seed) {}

  const std::shared_ptr<State>& state() const { return state_; }
  /// Called wherever somebody looks for progress.
  void set_pause(std::function<void()> pause) { pause_ = std::move(pause); }
  /// From now on calls throw: another rank is lost.
  void fail() { has_failed_ = true; }

  std::string_view name() const noexcept override { return "meeting"; }
  std::string description() const override { return "ranks that meet in one thread"; }
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return all_.meeting->size(); }
  int host_size() const noexcept override { return inside_.meeting->size(); }

  void all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op, Span span,
                  StreamHandle stream, const WaitContext&) override {
    const auto bytes = static_cast<std::size_t>(count * size_of(dtype));
    start(span == Span::all ? all_ : inside_, stream, {data, bytes}, {data, bytes}, data,
          fmt::format("all-reduce of {} {}", count, to_string(dtype)),
          [=](const std::vector<Bytes>& all) {
            const Bytes sum = reduced(all, dtype, op);
            std::copy(sum.begin(), sum.end(), data);
          });
  }

  void all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank, StreamHandle stream,
                  const WaitContext&) override {
    const Parts parts = parts_of(bytes_per_rank, rank_);
    start(all_, stream, {all + parts.before, parts.own}, {all, parts.total}, all,
          fmt::format("all-gather of {}", fmt::join(bytes_per_rank, " ")),
          [all](const std::vector<Bytes>& given) {
            std::byte* place = all;
            for (const Bytes& part : given) place = std::copy(part.begin(), part.end(), place);
          });
  }

  void broadcast(std::byte* data, std::int64_t bytes, int root, StreamHandle stream,
                 const WaitContext&) override {
    const auto length = static_cast<std::size_t>(bytes);
    start(all_, stream, {data, rank_ == root ? length : 0}, {data, length}, data,
          fmt::format("broadcast of {} from {}", bytes, root),
          [data, root](const std::vector<Bytes>& all) {
            const Bytes& sent = all[static_cast<std::size_t>(root)];
            std::copy(sent.begin(), sent.end(), data);
          });
  }

  // What the other ranks' parts hold is not specified: nothing that would do.
  void reduce_scatter(std::byte* data, std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                      ReduceOp op, StreamHandle stream, const WaitContext&) override {
    const Parts parts = parts_of(bytes_per_rank, rank_);
    start(all_, stream, {data, parts.total}, {data, parts.total}, data,
          fmt::format("reduce-scatter of {} {}", fmt::join(bytes_per_rank, " "), to_string(dtype)),
          [=](const std::vector<Bytes>& all) {
            const Bytes sum = reduced(all, dtype, op);
            std::fill_n(data, parts.total, std::byte{0xEE});
            std::copy_n(sum.data() + parts.before, parts.own, data + parts.before);
          });
  }

  // What a rank gives to each other one travels before its data.
  void all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                  std::byte* receive, std::span<const std::int64_t> receive_bytes,
                  StreamHandle stream, const WaitContext&) override {
    const std::vector<std::int64_t> sent(send_bytes.begin(), send_bytes.end());
    const std::vector<std::int64_t> received(receive_bytes.begin(), receive_bytes.end());
    const std::size_t total = parts_of(received, 0).total;
    start(
        all_, stream, {send, parts_of(sent, 0).total}, {receive, total}, receive, "all-to-all",
        [meeting = all_.meeting, this_rank = rank_, receive,
         received](const std::vector<Bytes>& all) {
          std::byte* place = receive;
          for (std::size_t r = 0; r < all.size(); ++r) {
            std::vector<std::int64_t> given(all.size());
            const std::size_t head = given.size() * sizeof given[0];
            std::memcpy(given.data(), all[r].data(), head);
            const Parts parts = parts_of(given, this_rank);
            if (parts.own != static_cast<std::size_t>(received[r])) {
              return meeting->violate(
                  fmt::format("rank {} gives {} bytes to rank {}, which awaits {}", r, parts.own,
                              this_rank, received[r]));
            }
            place = std::copy_n(all[r].data() + head + parts.before, parts.own, place);
          }
        },
        sent);
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
    if (pause_) pause_();
    require_usable();
  }
  void close(const WaitContext&) override {}
  void abort() noexcept override {
    state_->is_aborted = true;
    unposted_.clear();
  }
  TransportCounters counters() const noexcept override { return {}; }

 private:
  void require_usable() const {
    if (has_failed_) throw Error(StatusCode::rank_lost, "a rank is lost");
  }
  using Receive = std::function<void(const std::vector<Bytes>&)>;
  struct Unposted {
    StreamHandle stream = nullptr;
    test::Operation operation;
    int advances = 0;    ///< until it is known to be posted
    int enqueue_at = 0;  ///< so many of them before that
  };

  /// Of a memory that is cut by ranks: a rank's part, what is before it, and all.
  struct Parts {
    std::size_t before = 0;
    std::size_t own = 0;
    std::size_t total = 0;
  };
  static Parts parts_of(std::span<const std::int64_t> bytes_per_rank, int rank) {
    Parts parts;
    for (std::size_t r = 0; r < bytes_per_rank.size(); ++r) {
      const auto bytes = static_cast<std::size_t>(bytes_per_rank[r]);
      if (static_cast<int>(r) == rank) parts = {parts.total, bytes, parts.total};
      parts.total += bytes;
    }
    return parts;
  }

  // In the order of ranks.
  static Bytes reduced(const std::vector<Bytes>& all, DataType dtype, ReduceOp op) {
    Bytes sum = all.front();
    const auto count = std::ssize(sum) / size_of(dtype);
    for (std::size_t r = 1; r < all.size(); ++r) {
      kernels::reduce(sum.data(), sum.data(), all[r].data(), count, dtype, op);
    }
    return sum;
  }

  // `head` goes before the data.
  void start(Seat& seat, StreamHandle stream, test::MemoryUse from, test::MemoryUse to,
             std::byte* result, std::string call, Receive receive,
             std::vector<std::int64_t> head = {}) {
    require_usable();
    Unposted made{stream, {"collective", {from, to}, false, {}}};
    if (random_() % 2 == 0) made.advances = static_cast<int>(random_() % 6);
    made.enqueue_at = static_cast<int>(random_() % static_cast<unsigned>(made.advances + 1));
    made.operation.run = [&meeting = *seat.meeting, state = state_, place = seat.place,
                          number = seat.started++, from, to, result, call = std::move(call),
                          receive = std::move(receive), head = std::move(head),
                          has_given = false]() mutable {
      if (state->is_aborted) {
        ++state->skipped;
        std::fill_n(result, to.bytes, std::byte{0});  // Whatever: no offset beyond its chunk.
        return true;
      }
      if (!std::exchange(has_given, true)) {
        const auto first = std::as_bytes(std::span(head));
        Bytes data(first.begin(), first.end());
        const auto* const begin = static_cast<const std::byte*>(from.begin);
        data.insert(data.end(), begin, begin + from.bytes);
        meeting.put(number, place, call, std::move(data));
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
  Seat all_;
  Seat inside_;
  const int rank_;
  std::mt19937_64 random_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  bool has_failed_ = false;
  std::function<void()> pause_;
  std::deque<Unposted> unposted_;
};

}  // namespace scalecom::sim
