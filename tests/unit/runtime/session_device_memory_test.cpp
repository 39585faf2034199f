// Accelerators without memory for what is asked of them: of one rank alone, in each of these.
#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/exact_values.hpp"
#include "tests/support/ranks.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using test::exact_values;
using test::expect_ok;

namespace {

using Bytes = std::vector<std::byte>;

// Elements of each of two tensors, and of one with a large fusion buffer.
constexpr std::int64_t kCount = 3000;
constexpr std::int64_t kLargeCount = 30'000;
// Less than any operation of those two takes.
constexpr std::size_t kFew = 1000;
constexpr std::size_t kPlenty = std::size_t{1} << 30;

enum class Kind { dense, delivered, compressed, gathered, scattered, exchanged };

AllReduceOptions compressed(std::int64_t rate) {
  AllReduceOptions options;
  options.compression.mode = CompressionMode::sharded;
  options.compression.rate = rate;
  options.compression.beta = 0.5;
  return options;
}

// One rank of a world whose ranks reduce without the host: what it submits, and what it holds back.
class Rank {
 public:
  Rank(DeviceWorld& world, int rank, int size)
      : session_(world[rank]),
        accelerator_(world.accelerator(rank)),
        rank_(rank),
        size_(size),
        first_(accelerator_, DataType::float32, {4}),
        large_(accelerator_, DataType::float32, {kLargeCount}),
        w_(accelerator_, DataType::float32, {kCount}),
        v_(accelerator_, DataType::float32, {kCount}) {
    accelerator_.set_free(kPlenty);
    sum_first();
  }

  test::FakeAccelerator& accelerator() { return accelerator_; }
  Session& session() { return session_; }

  // What the next dense step delivers.
  void owe() {
    session_.restore_residuals({{"w", {kCount}, 1, std::vector<float>(kCount, 3.0f), 0.5}});
  }
  void sum_first() { expect_ok(session_.all_reduce("first", first_.view(), first_.view()).wait()); }

  // A batch that keeps its buffer until release().
  void hold_large() {
    const auto entered = accelerator_.enter();
    is_held_ = true;
    accelerator_.enqueue(large_.stream(), {"held", {}, false, [this] { return !is_held_; }});
    refused_ = accelerator_.calls()["refuse"];
  }
  void sum_large() {
    AllReduceOptions options;
    options.prescale = 0.5;  // Else a rank alone has no buffer for it.
    expect_ok(session_.all_reduce("large", large_.view(), large_.view(), options).wait());
  }
  void release_when_refused(const Ticket& ticket) {
    const Deadline deadline = Deadline::after(std::chrono::seconds(10));
    while (is_held_ && accelerator_.calls()["refuse"] == refused_ && !ticket.is_ready() &&
           !deadline.has_passed()) {
      std::this_thread::yield();
    }
    is_held_ = false;
  }

  // Before anything is held back.
  void write(unsigned seed) {
    w_.write(exact_values(DataType::float32, kCount, seed + static_cast<unsigned>(rank_)));
    v_.write(exact_values(DataType::float32, kCount, seed + static_cast<unsigned>(rank_) + 100));
  }
  Ticket start(Kind kind, std::int64_t rate = 7) {
    switch (kind) {
      case Kind::dense:
      case Kind::delivered:
      case Kind::compressed:
        return session_.all_reduce_group(
            {{"w", w_.view(), w_.view()}, {"v", v_.view(), v_.view()}},
            kind == Kind::compressed ? compressed(rate) : AllReduceOptions{});
      case Kind::gathered: return session_.all_gather("gathered", w_.view());
      case Kind::scattered: return session_.reduce_scatter("scattered", w_.view());
      case Kind::exchanged: break;
    }
    const std::vector<std::int64_t> rows(static_cast<std::size_t>(size_), kCount / size_);
    return session_.all_to_all("exchanged", w_.view(), rows);
  }

  Bytes result(Kind kind, const Ticket& ticket) {
    accelerator_.set_free(kPlenty);
    if (kind == Kind::dense || kind == Kind::delivered || kind == Kind::compressed) {
      Bytes both = w_.read(ticket);
      const Bytes other = v_.read(ticket);
      both.insert(both.end(), other.begin(), other.end());
      return both;
    }
    DeviceTensor copy(accelerator_, DataType::float32, ticket.output().shape);
    ticket.copy_output(copy.view().data, copy.stream());
    return copy.read(ticket);
  }

 private:
  Session& session_;
  test::FakeAccelerator& accelerator_;
  const int rank_;
  const int size_;
  std::atomic<bool> is_held_ = false;
  int refused_ = 0;
  DeviceTensor first_;
  DeviceTensor large_;
  DeviceTensor w_;
  DeviceTensor v_;
};

// What all ranks have, one after the other, where the last one has too little memory for as long as
// a batch before is on its device, or has enough.
struct Outcome {
  std::vector<Bytes> results;
  std::vector<std::vector<float>> residuals;
  int refused = 0;

  bool operator==(const Outcome& other) const {
    return results == other.results && residuals == other.residuals;
  }
};

Outcome run_behind_large(int size, Kind kind, bool is_short) {
  test::NcclWorld nccl;
  DeviceWorld world(size, 3, [&](auto& fake) { return nccl.make_api(fake); });
  const auto ranks = static_cast<std::size_t>(size);
  Outcome outcome{std::vector<Bytes>(ranks), std::vector<std::vector<float>>(ranks)};
  test::run_ranks(size, [&](int rank) {
    Rank own(world, rank, size);
    const bool is_held = is_short && rank == size - 1;
    if (kind == Kind::delivered) own.owe();
    own.write(5);
    if (is_held) own.hold_large();
    own.sum_large();
    if (is_held) own.accelerator().set_free(kFew);
    const Ticket ticket = own.start(kind);
    own.release_when_refused(ticket);
    expect_ok(ticket.wait());
    const auto at = static_cast<std::size_t>(rank);
    outcome.results[at] = own.result(kind, ticket);
    if (kind == Kind::compressed) outcome.residuals[at] = own.session().residual("v").values;
  });
  outcome.refused = world.accelerator(size - 1).calls()["refuse"];
  return outcome;
}

// What each rank is told of an operation for which the last one has no memory, and no batch before
// it has any to give back.
std::vector<Status> run_without_memory(int size, Kind kind) {
  DeviceWorld world(size, 1);
  std::vector<Status> outcome(static_cast<std::size_t>(size), Status());
  test::run_ranks(size, [&](int rank) {
    Rank own(world, rank, size);
    own.write(5);
    // Residuals are there, and buffers of a milder step are not.
    if (kind == Kind::compressed) expect_ok(own.start(kind, 1000).wait());
    std::vector<float> owed;
    if (kind == Kind::compressed) owed = own.session().residual("v").values;
    if (rank == size - 1) own.accelerator().set_free(kFew);
    if (kind == Kind::delivered) own.owe();
    Status& status = outcome[static_cast<std::size_t>(rank)];
    try {
      status = own.start(kind, 1).wait();
      own.sum_first();
    } catch (const Error& error) {  // The session is over, with the same cause.
      if (error.status() != status) throw;
    }
    // Of a rank that has begun it, the step's own: the session is over.
    if (kind == Kind::compressed && rank == size - 1 &&
        own.session().residual("v").values != owed) {
      throw Error(StatusCode::internal, "the residual is that of half a step");
    }
  });
  return outcome;
}

}  // namespace

TEST_CASE("what a batch takes of a device is waited for while batches before it are there") {
  for (const int size : {1, 2, 3}) {
    for (const Kind kind : {Kind::dense, Kind::delivered, Kind::compressed, Kind::gathered,
                            Kind::scattered, Kind::exchanged}) {
      CAPTURE(size, static_cast<int>(kind));
      const Outcome got = run_behind_large(size, kind, true);
      CHECK(got.refused > 0);
      CHECK(got == run_behind_large(size, kind, false));
    }
  }
}

TEST_CASE("a rank without memory for a batch fails it on all ranks, with what it needs") {
  struct Case {
    Kind kind;
    std::string text;
  };
  for (const int size : {1, 2, 3}) {
    for (const auto& [kind, text] :
         {Case{Kind::dense, "a buffer of 24000 bytes"},
          Case{Kind::delivered, "tensor w: its residual takes 12000 bytes"},
          Case{Kind::compressed, "a buffer of "},
          Case{Kind::gathered,
               fmt::format("tensor gathered: its result takes {} bytes", 12'000 * size)},
          Case{Kind::scattered, "a buffer of 12000 bytes"},
          Case{Kind::exchanged, "tensor exchanged: its result takes 12000 bytes"}}) {
      CAPTURE(size, text);
      for (const Status& status : run_without_memory(size, kind)) {
        CHECK(status.code() == StatusCode::unavailable);
        CHECK_THAT(status.message(), Contains(fmt::format(") on rank {}: ", size - 1)) &&
                                         Contains(text) && Contains("are free"));
      }
    }
  }
}

TEST_CASE("a residual without memory fails its tensor on all ranks, and nothing else") {
  for (const int size : {1, 2, 3}) {
    CAPTURE(size);
    std::vector<std::string> found(static_cast<std::size_t>(size));
    DeviceWorld short_world(size, 2);
    DeviceWorld world(size, 2);
    test::run_ranks(size, [&](int rank) {
      std::string& differs = found[static_cast<std::size_t>(rank)];
      Rank own(short_world, rank, size);
      Rank other(world, rank, size);
      for (unsigned step = 0; step < 5; ++step) {
        if (step == 1) {  // Both residuals are lost, as with a checkpoint that has none.
          for (Rank* one : {&own, &other}) {
            one->session().restore_residuals({{"w", {kCount}, 1, std::vector<float>(kCount), 0.0},
                                              {"v", {kCount}, 1, std::vector<float>(kCount), 0.0}});
          }
          if (rank == size - 1) own.accelerator().set_free(kFew);
          own.write(step);
          const Status status = own.start(Kind::compressed).wait();
          const std::string wanted = fmt::format(
              "tensor w on rank {}: its residual takes 12000 bytes on the device", size - 1);
          if (status.code() != StatusCode::mismatch || !status.message().starts_with(wanted) ||
              status.message().find("Compression.none") == std::string::npos) {
            differs += status.message();
          }
          own.sum_first();
          own.accelerator().set_free(kPlenty);
        }
        own.write(step);
        other.write(step);
        const Ticket one = own.start(Kind::compressed);
        const Ticket two = other.start(Kind::compressed);
        expect_ok(one.wait());
        expect_ok(two.wait());
        if (own.result(Kind::compressed, one) != other.result(Kind::compressed, two) ||
            own.session().residual("v").values != other.session().residual("v").values) {
          differs += fmt::format("step {}", step);
        }
      }
    });
    for (const std::string& differs : found) CHECK(differs == "");
  }
}

TEST_CASE("what is given back is used again, also after steps that were short of it") {
  constexpr int kSize = 2;
  constexpr unsigned kRound = 4;  // Steps, of which the first is short on rank 1.
  std::vector<std::vector<std::size_t>> free(kSize);
  test::NcclWorld nccl;
  DeviceWorld world(kSize, 4, [&](auto& fake) { return nccl.make_api(fake); });
  test::run_ranks(kSize, [&](int rank) {
    Rank own(world, rank, kSize);
    test::FakeAccelerator& accelerator = own.accelerator();
    for (unsigned step = 0; step < 3 * kRound; ++step) {
      const bool is_short = rank == 1 && step % kRound == 0;
      for (const Kind kind : {Kind::compressed, Kind::gathered, Kind::scattered, Kind::exchanged}) {
        own.write(step);
        AcceleratorMemory others;  // A framework's, which takes what it can.
        if (is_short) own.hold_large();
        own.sum_large();
        const auto entered = accelerator.enter();
        if (is_short) others = accelerator.allocate(accelerator.free_bytes() - kFew);
        const Ticket ticket = own.start(kind);
        own.release_when_refused(ticket);
        expect_ok(ticket.wait());
        accelerator.synchronize();
      }
      accelerator.synchronize();
      if (step % kRound == kRound - 1) {
        free[static_cast<std::size_t>(rank)].push_back(accelerator.free_bytes());
      }
    }
  });
  CHECK(world.accelerator(1).calls()["refuse"] > 0);
  for (const auto& rounds : free) CHECK(rounds == std::vector<std::size_t>(3, rounds.front()));
}
