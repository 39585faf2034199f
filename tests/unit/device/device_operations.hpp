#pragma once

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collective/device/device_collectives.hpp"
#include "tests/support/fake_accelerator.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"

namespace scalecom::test {

/// A rank of a random program of device collectives.
struct DeviceRank {
  FakeAccelerator& accelerator;
  DeviceCollectives& collectives;
  /// Moves on what is the host's.
  std::function<bool(const WaitContext&)> advance_host;
  /// The ranks of this rank's host.
  std::vector<int> neighbours;
};

/// What a stream has brought to an operation, in device memory, and what it finds there behind it.
/// Nothing of it is touched by the host.
class DeviceCall {
 public:
  DeviceCall(FakeAccelerator& accelerator, StreamHandle stream, Bytes input)
      : accelerator_(accelerator),
        stream_(stream),
        size_(input.size()),
        memory_(accelerator.allocate(std::max<std::size_t>(size_, 1))) {
    enqueue("fill", [input = std::move(input)](std::byte* data) {
      if (!input.empty()) std::memcpy(data, input.data(), input.size());
    });
  }

  std::byte* data() const { return memory_.get(); }

  /// Behind the operation: keeps what it has left, and overwrites it.
  void read(std::string what, std::function<bool(const Bytes&)> is_right) {
    what_ = std::move(what);
    is_right_ = std::move(is_right);
    enqueue("read", [this](std::byte* data) {
      found_.assign(data, data + size_);
      std::fill_n(data, size_, std::byte{0xEE});
    });
  }
  /// Empty when it was right.
  std::string problem() const { return is_right_(found_) ? "" : what_ + "; "; }

 private:
  void enqueue(std::string name, std::function<void(std::byte*)> body) {
    accelerator_.enqueue(stream_, {std::move(name),
                                   {{memory_.get(), size_}},
                                   false,
                                   [body = std::move(body), data = memory_.get()] {
                                     body(data);
                                     return true;
                                   }});
  }

  FakeAccelerator& accelerator_;
  StreamHandle stream_;
  std::size_t size_;
  AcceleratorMemory memory_;
  std::string what_;
  std::function<bool(const Bytes&)> is_right_;
  Bytes found_;
};

/// Moves everything on until the operations are posted; throws after a minute.
inline void post_all(const DeviceRank& rank) {
  const WaitContext context = patience();
  WaitLoop loop(context);
  while (!rank.collectives.is_posted()) {
    const bool has_moved = rank.advance_host(context);
    if (rank.collectives.advance(context) || has_moved) {
      loop.restart();
    } else {
      loop.pause("posting device collectives");
    }
  }
}

/// Operations of random kinds, sizes and dtypes, on two streams, several of them not posted.
class DeviceProgram {
 public:
  DeviceProgram(DeviceRank& rank, unsigned seed)
      : rank_(rank),
        same_(seed),
        own_(seed * 100 + static_cast<unsigned>(rank.collectives.rank())),
        entered_(rank.accelerator.enter()) {
    for (StreamOwner& stream : streams_) stream = rank.accelerator.make_stream();
  }

  /// Describes what went wrong; empty: nothing did.
  std::string run(int rounds) {
    for (int round = 0; round < rounds; ++round) {
      std::vector<std::function<void()>> readers;
      for (auto calls = 1 + same_() % 4; calls > 0; --calls) {
        readers.push_back(start_one());
        if (own_() % 3 == 0) rank_.collectives.advance(patience());
      }
      post_all(rank_);
      for (const auto& read : readers) read();
    }
    rank_.accelerator.synchronize();
    std::string wrong;
    for (const auto& call : calls_) wrong += call->problem();
    return wrong;
  }

 private:
  using Check = std::function<bool(const Bytes&)>;

  std::function<void()> start_one() {
    stream_ = streams_[same_() % 2].get();
    switch (same_() % 6) {
      case 0: return all_reduce(DeviceCollectives::Span::host);
      case 1: return all_gather();
      case 2: return broadcast();
      case 3: return reduce_scatter();
      case 4: return all_to_all();
      default: return all_reduce(DeviceCollectives::Span::all);
    }
  }

  int size() const { return rank_.collectives.size(); }
  int me() const { return rank_.collectives.rank(); }
  std::int64_t draw_count() {
    constexpr std::array<std::int64_t, 7> counts{0, 1, 7, 100, 1023, 1500, 9001};
    return counts[same_() % counts.size()];
  }
  DataType draw_dtype() { return static_cast<DataType>(same_() % 10); }
  // 16-bit floating point: no sums, whose bits depend on the order.
  ReduceOp draw_op(DataType dtype) {
    constexpr std::array ops{ReduceOp::min, ReduceOp::max, ReduceOp::sum, ReduceOp::product};
    const bool is_half = dtype == DataType::float16 || dtype == DataType::bfloat16;
    return ops[same_() % (is_half ? 2 : 4)];
  }

  DeviceCall& make_call(Bytes input) {
    return *calls_.emplace_back(
        std::make_unique<DeviceCall>(rank_.accelerator, stream_, std::move(input)));
  }
  static std::function<void()> reader(DeviceCall& call, std::string what, Check check) {
    return [&call, what = std::move(what), check = std::move(check)] { call.read(what, check); };
  }

  static Bytes reduce_inputs(const std::vector<int>& ranks, std::int64_t count, DataType dtype,
                             ReduceOp op) {
    Bytes result = input_of(ranks.front(), count, dtype);
    for (std::size_t i = 1; i < ranks.size(); ++i) {
      const Bytes next = input_of(ranks[i], count, dtype);
      kernels::reduce(result.data(), result.data(), next.data(), count, dtype, op);
    }
    return result;
  }
  std::vector<int> everyone() const {
    std::vector<int> ranks(static_cast<std::size_t>(size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }

  std::function<void()> all_reduce(DeviceCollectives::Span span) {
    const DataType dtype = draw_dtype();
    const ReduceOp op = draw_op(dtype);
    const std::int64_t count = draw_count();
    DeviceCall& call = make_call(input_of(me(), count, dtype));
    rank_.collectives.all_reduce(call.data(), count, dtype, op, span, stream_, patience());
    const bool is_inside = span == DeviceCollectives::Span::host;
    const auto ranks = is_inside ? rank_.neighbours : everyone();
    const Bytes expected = reduce_inputs(ranks, count, dtype, op);
    return reader(call,
                  fmt::format("{} of {} {}{}", to_string(op), count, to_string(dtype),
                              is_inside ? " inside the host" : ""),
                  [=](const Bytes& found) { return is_close(found, expected, dtype); });
  }

  // Of each rank, unequal or not.
  std::vector<std::int64_t> draw_parts(std::int64_t unit) {
    const bool is_equal = same_() % 2 == 0;
    std::vector<std::int64_t> parts{draw_count() * unit};
    while (static_cast<int>(parts.size()) < size()) {
      parts.push_back(is_equal ? parts.front() : draw_count() * unit);
    }
    return parts;
  }
  static std::int64_t sum(const std::vector<std::int64_t>& parts) {
    return std::reduce(parts.begin(), parts.end());
  }

  std::function<void()> all_gather() {
    const auto parts = draw_parts(1);
    Bytes expected;
    Bytes input(static_cast<std::size_t>(sum(parts)), std::byte{0xAA});
    for (int r = 0; r < size(); ++r) {
      const Bytes part = input_of(r, parts[static_cast<std::size_t>(r)], DataType::uint8);
      if (r == me()) std::copy(part.begin(), part.end(), input.begin() + std::ssize(expected));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    DeviceCall& call = make_call(std::move(input));
    rank_.collectives.all_gather(call.data(), parts, stream_, patience());
    return reader(call, fmt::format("all-gather of {} bytes", expected.size()),
                  [=](const Bytes& found) { return found == expected; });
  }

  std::function<void()> broadcast() {
    const std::int64_t bytes = draw_count();
    const int root = static_cast<int>(same_() % static_cast<unsigned>(size()));
    DeviceCall& call = make_call(input_of(me(), bytes, DataType::uint8));
    rank_.collectives.broadcast(call.data(), bytes, root, stream_, patience());
    const Bytes expected = input_of(root, bytes, DataType::uint8);
    return reader(call, fmt::format("broadcast of {} bytes from {}", bytes, root),
                  [=](const Bytes& found) { return found == expected; });
  }

  std::function<void()> reduce_scatter() {
    const DataType dtype = draw_dtype();
    const ReduceOp op = draw_op(dtype);
    const auto parts = draw_parts(size_of(dtype));
    const std::int64_t count = sum(parts) / size_of(dtype);
    DeviceCall& call = make_call(input_of(me(), count, dtype));
    rank_.collectives.reduce_scatter(call.data(), parts, dtype, op, stream_, patience());
    const auto begin = std::reduce(parts.begin(), parts.begin() + me(), std::int64_t{0});
    const auto cut = [begin, length = parts[static_cast<std::size_t>(me())]](const Bytes& all) {
      return Bytes(all.begin() + begin, all.begin() + begin + length);
    };
    const Bytes expected = cut(reduce_inputs(everyone(), count, dtype, op));
    return reader(call, fmt::format("reduce-scatter of {} {}", count, to_string(dtype)),
                  [=](const Bytes& found) { return is_close(cut(found), expected, dtype); });
  }

  std::function<void()> all_to_all() {
    const auto n = static_cast<std::size_t>(size());
    std::vector<std::int64_t> bytes(n * n);  // By sender and receiver.
    for (std::int64_t& part : bytes) part = draw_count();
    const auto part_of = [&](int from, int to) {
      const auto index = static_cast<std::size_t>(from) * n + static_cast<std::size_t>(to);
      return input_of(static_cast<int>(index), bytes[index], DataType::uint8);
    };
    std::array<std::vector<std::int64_t>, 2> parts;
    std::array<Bytes, 2> data;
    for (int r = 0; r < size(); ++r) {
      const std::array both{part_of(me(), r), part_of(r, me())};
      for (std::size_t i = 0; i < 2; ++i) {
        parts[i].push_back(std::ssize(both[i]));
        data[i].insert(data[i].end(), both[i].begin(), both[i].end());
      }
    }
    DeviceCall& send = make_call(data[0]);
    DeviceCall& receive = make_call(Bytes(data[1].size(), std::byte{0xAA}));
    rank_.collectives.all_to_all(send.data(), parts[0], receive.data(), parts[1], stream_,
                                 patience());
    const auto read_send = reader(send, "what an all-to-all sent",
                                  [=](const Bytes& found) { return found == data[0]; });
    const auto read_receive = reader(receive, fmt::format("all-to-all of {} bytes", data[1].size()),
                                     [=](const Bytes& found) { return found == data[1]; });
    return [=] {
      read_send();
      read_receive();
    };
  }

  DeviceRank& rank_;
  std::mt19937 same_;
  std::mt19937 own_;
  const std::shared_ptr<void> entered_;
  std::array<StreamOwner, 2> streams_;
  StreamHandle stream_ = nullptr;
  std::vector<std::unique_ptr<DeviceCall>> calls_;
};

}  // namespace scalecom::test
