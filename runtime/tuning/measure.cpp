#include "runtime/tuning/measure.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <vector>

#include "collective/shm/shm_collectives.hpp"
#include "collective/transfers.hpp"
#include "kernels/reduce.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr std::size_t kFewBytes = 8;
constexpr std::size_t kLongBytes = 4 << 20;
// As long as what the passes are measured on: neither is in a core's cache.
constexpr std::size_t kInsideBytes = 16 << 20;
constexpr double kRow_s = 0.5e-3;
constexpr int kRowCallsMax = 64;
constexpr std::size_t kReducedBytes = 1 << 20;
constexpr std::size_t kFlatBytesMin = 16 << 10;
constexpr std::size_t kFirstExchangeBytes = 256 << 10;
// Beside those of any collective: what a failed measurement leaves under way meets nothing.
constexpr int kTag = 32'000;

double seconds_of(const std::function<void()>& call) {
  const TimePoint begin = Clock::now();
  call();
  return Seconds(Clock::now() - begin).count();
}

// The first call finds memory and caches cold and does not count.
double fastest_s(int calls, const std::function<void()>& call) {
  call();
  double fastest = seconds_of(call);
  for (int i = 1; i < calls; ++i) fastest = std::min(fastest, seconds_of(call));
  return fastest;
}

// All-reduces of zeros on one board.
class BoardCalls {
 public:
  BoardCalls(Board& board, const WaitContext& context)
      : board_(board), context_(context), data_(kInsideBytes) {}

  // Of short ones several in a row are timed: a single one is short on the rank that comes last.
  double fastest_s(int rows, std::size_t bytes, const ShmTuning& tuning) {
    ShmCollectives collectives(board_, tuning);
    const auto call = [&] {
      collectives.all_reduce(std::span(data_).first(bytes), DataType::float32, ReduceOp::sum,
                             context_);
    };
    const int row_calls = agree_on_row(scalecom::fastest_s(1, call));
    const auto run_row = [&] {
      for (int i = 0; i < row_calls; ++i) call();
    };
    return scalecom::fastest_s(rows, run_row) / row_calls;
  }

 private:
  // As many calls as the first rank finds to fill kRow_s: few where others use the cores.
  int agree_on_row(double call_s) {
    auto calls = static_cast<std::uint8_t>(std::clamp<double>(kRow_s / call_s, 1, kRowCallsMax));
    ShmCollectives(board_).broadcast(std::as_writable_bytes(std::span(&calls, 1)), 0, context_);
    return calls;
  }

  Board& board_;
  const WaitContext& context_;
  std::vector<std::byte> data_;
};

// The first ranks of two neighbouring hosts. One leads: it measures and says how long to go on.
class Pair {
 public:
  Pair(Transport& transport, int peer, const WaitContext& context)
      : peer_(peer), group_{transport, scratch_, context, kTag} {}

  void lead(const MeasurementPlan& plan, Samples& samples) {
    const TimePoint begin = Clock::now();
    const double latency_s = fastest_s(pings(plan), [&] { ping(); }) / 2;
    note(samples, samples::kMessage, latency_s);
    double byte_s = 0;  // Of the longest: short ones may come out of some buffer.
    std::size_t bytes = kFirstExchangeBytes;
    while (true) {
      command(bytes);
      const double time_s = fastest_s(1, [&] { exchange(bytes); });
      // Of a time that is nearly all latency, a part is left, never nothing.
      byte_s = std::max(time_s - latency_s, time_s / 2) / static_cast<double>(bytes);
      const Seconds after_next = Clock::now() - begin + Seconds(2 * 4 * time_s);
      bytes *= 4;
      if (bytes > plan.exchange_bytes_max || after_next > plan.budget) break;
    }
    note(samples, samples::kMessageByte, byte_s);
    command(0);
  }

  void follow(const MeasurementPlan& plan) {
    for (int i = 0; i <= pings(plan); ++i) answer();
    for (std::size_t bytes = wait_for_command(); bytes > 0; bytes = wait_for_command()) {
      for (int i = 0; i <= 1; ++i) exchange(bytes);
    }
  }

 private:
  static int pings(const MeasurementPlan& plan) { return 2 * plan.calls; }

  void send(std::span<const std::byte> bytes) {
    run_transfers(group_, {send_to(peer_, bytes)}, "measuring the link");
  }
  void receive(std::span<std::byte> bytes) {
    run_transfers(group_, {receive_from(peer_, bytes)}, "measuring the link");
  }
  void ping() {
    send(word_);
    receive(word_);
  }
  void answer() {
    receive(word_);
    send(word_);
  }
  void command(std::uint64_t bytes) {
    std::memcpy(word_.data(), &bytes, word_.size());
    send(word_);
  }
  std::size_t wait_for_command() {
    receive(word_);
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, word_.data(), word_.size());
    return bytes;
  }
  void exchange(std::size_t bytes) {
    out_.resize(bytes);
    in_.resize(bytes);
    run_transfers(group_, {receive_from(peer_, in_), send_to(peer_, out_)}, "measuring the link");
  }

  const int peer_;
  Scratch scratch_;
  const Group group_;
  std::array<std::byte, sizeof(std::uint64_t)> word_{};
  std::vector<std::byte> out_;
  std::vector<std::byte> in_;
};

}  // namespace

void measure_inside(Board& board, const Tuning& defaults, const MeasurementPlan& plan,
                    const WaitContext& context, Samples& samples) {
  std::vector<std::byte> mine(kReducedBytes);
  const std::vector<std::byte> theirs(kReducedBytes);
  const auto reduce = [&] {
    kernels::reduce(mine.data(), mine.data(), theirs.data(), kReducedBytes / sizeof(float),
                    DataType::float32, ReduceOp::sum);
  };
  note(samples, samples::kReducedByte, fastest_s(plan.calls, reduce) / kReducedBytes);
  BoardCalls calls(board, context);
  const ShmTuning in_blocks{.flat_bytes_max = 0, .block_bytes = defaults.shm.block_bytes};
  const ShmTuning flat{.flat_bytes_max = board.slot_bytes(), .block_bytes = board.slot_bytes()};
  note(samples, samples::kInside, calls.fastest_s(4 * plan.calls, kFewBytes, flat));
  // The model's blocks_time_s(), solved for the rate.
  note(samples, samples::kInsideByte,
       calls.fastest_s(plan.calls, kInsideBytes, in_blocks) / 3 / kInsideBytes);
}

void measure_shm_choices(Board& board, const Tuning& defaults, const MeasurementPlan& plan,
                         const WaitContext& context, Samples& samples) {
  const TimePoint begin = Clock::now();
  BoardCalls calls(board, context);
  ShmCollectives everyone(board);
  const auto goes_on = [&] {
    auto flag = std::byte{Clock::now() - begin < plan.budget ? std::uint8_t{1} : std::uint8_t{0}};
    everyone.broadcast({&flag, 1}, 0, context);
    return flag != std::byte{0};
  };
  const std::size_t slot_bytes = board.slot_bytes();
  const std::size_t block_bytes = defaults.shm.block_bytes;
  for (std::size_t bytes = kFlatBytesMin; bytes <= slot_bytes && goes_on(); bytes *= 2) {
    note(samples, samples::flat(bytes),
         calls.fastest_s(plan.calls, bytes,
                         {.flat_bytes_max = slot_bytes, .block_bytes = slot_bytes}));
    note(samples, samples::blocks(bytes),
         calls.fastest_s(plan.calls, bytes, {.flat_bytes_max = 0, .block_bytes = block_bytes}));
  }
  for (std::size_t bytes = slot_bytes; bytes >= kBlockBytesMin && goes_on(); bytes /= 2) {
    note(samples, samples::block(bytes),
         calls.fastest_s(plan.calls, kLongBytes, {.flat_bytes_max = 0, .block_bytes = bytes}));
  }
}

void measure_link(Transport& transport, const HostRanks& hosts, const MeasurementPlan& plan,
                  const WaitContext& context, Samples& samples) {
  const auto mine = std::find_if(hosts.begin(), hosts.end(), [&](const std::vector<int>& ranks) {
    return ranks.front() == transport.rank();
  });
  if (mine == hosts.end()) return;
  const auto place = static_cast<int>(mine - hosts.begin());
  // First hosts 0 and 1, 2 and 3...; then 1 and 2, 3 and 4...
  for (const int phase : {0, 1}) {
    const bool leads = place % 2 == phase;
    const int other = leads ? place + 1 : place - 1;
    if (other < 0 || other >= static_cast<int>(hosts.size())) continue;
    Pair pair(transport, hosts[static_cast<std::size_t>(other)].front(), context);
    try {
      leads ? pair.lead(plan, samples) : pair.follow(plan);
    } catch (const Error&) {
      transport.cancel_all();  // While the pair's memory is still there.
      throw;
    }
  }
}

}  // namespace scalecom
