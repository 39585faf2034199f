// Collectives over NCCL, which threads with fake devices play.

#include "collective/device/nccl_collectives.hpp"

#include <atomic>

#include "collective/message_collectives.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/host_world.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/device/callers_poster.hpp"
#include "tests/unit/device/device_operations.hpp"
#include "tests/unit/device/nccl_world.hpp"
#include "tests/unit/device/tuner_plugin.hpp"
#include "transport/loopback/loopback_transport.hpp"

using namespace scalecom;
using namespace scalecom::test;
using namespace scalecom::device;
using Catch::Contains;

namespace {

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::vector<int> numbers_of(const HostRanks& hosts, int size) {
  std::vector<int> host_of_rank(index(size));
  for (std::size_t h = 0; h < hosts.size(); ++h) {
    for (const int rank : hosts[h]) host_of_rank[index(rank)] = static_cast<int>(h);
  }
  return host_of_rank;
}

NcclCollectives::Needs needs(
    nccl::Api api, FakeAccelerator& accelerator, Collectives& host, std::vector<int> host_of_rank,
    nccl::AllReduceAlgorithm algorithm = nccl::AllReduceAlgorithm::own_choice) {
  return {.api = std::make_shared<const nccl::Api>(std::move(api)),
          .accelerator = accelerator,
          .host = host,
          .host_of_rank = std::move(host_of_rank),
          .algorithm = algorithm,
          .poster = std::make_unique<CallersPoster>()};
}

using Edit = std::function<void(int rank, nccl::Api&)>;
using Body = std::function<void(int rank, NcclCollectives&, FakeAccelerator&)>;

// Two ranks on two hosts; `edit` changes what NCCL does. Returns what each rank threw.
std::vector<Status> run_pair(
    const Edit& edit, const Body& body, const WaitContext& connecting = patience(),
    nccl::AllReduceAlgorithm algorithm = nccl::AllReduceAlgorithm::own_choice,
    std::array<CallersPoster*, 2>* posters = nullptr) {
  NcclWorld nccl;
  LoopbackWorld world(2);
  std::vector<Status> outcomes(2);
  run_ranks(2, [&](int rank) {
    const auto transport = world.make_transport(rank);
    MessageCollectives host(*transport);
    FakeAccelerator accelerator(static_cast<std::uint64_t>(rank));
    nccl::Api api = nccl.make_api(accelerator);
    edit(rank, api);
    try {
      NcclCollectives::Needs own = needs(std::move(api), accelerator, host, {0, 1}, algorithm);
      if (posters != nullptr) {
        (*posters)[index(rank)] = static_cast<CallersPoster*>(own.poster.get());
      }
      const auto collectives = NcclCollectives::create(std::move(own), connecting);
      const auto entered = accelerator.enter();
      body(rank, *collectives, accelerator);
    } catch (const Error& error) {
      outcomes[index(rank)] = error.status();
    }
  });
  return outcomes;
}

const Edit kAsItIs = [](int, nccl::Api&) {};
const Body kNothing = [](int, NcclCollectives&, FakeAccelerator&) {};

void reduce(NcclCollectives& collectives, DeviceCall& call, DataType dtype,
            const WaitContext& context) {
  collectives.all_reduce(call.data(), 4, dtype, ReduceOp::sum, DeviceCollectives::Span::all,
                         nullptr, context);
}

}  // namespace

TEST_CASE("collectives over NCCL give the serial results, of every kind, dtype and order") {
  const Job job = GENERATE(Job{{{0, 1, 2}}, 3}, Job{{{0, 2}, {1, 3}}, 4}, Job{{{0, 1}, {2}}, 3});
  for (const std::uint64_t seed : choose_seeds(8)) {
    CAPTURE(job.hosts.size(), seed);
    NcclWorld nccl;
    std::vector<std::string> wrong(index(job.size));
    run_job(job, 1024, [&](int rank, HierarchicalCollectives& host) {
      FakeAccelerator accelerator(1000 * seed + index(rank));
      const auto host_of_rank = numbers_of(job.hosts, job.size);
      nccl::Api api = nccl.make_api(accelerator);
      if (job.hosts.size() == 1 && seed % 2 == 0) api.comm_split = nullptr;  // As before 2.18.
      NcclCollectives::Needs own = needs(std::move(api), accelerator, host, host_of_rank);
      static_cast<CallersPoster&>(*own.poster).looks_in_vain = static_cast<int>(seed / 2 % 3);
      const auto collectives = NcclCollectives::create(std::move(own), patience());
      DeviceRank device{accelerator, *collectives,
                        [&](const WaitContext& context) { return host.advance(context); },
                        job.hosts[index(host_of_rank[index(rank)])]};
      wrong[index(rank)] = DeviceProgram(device, static_cast<unsigned>(seed)).run(12);
      collectives->check();
      collectives->close(patience());
    });
    for (const std::string& problem : wrong) CHECK(problem == "");
    for (const std::string& end : nccl.ends()) {
      CAPTURE(end);
      CHECK(end.ends_with(": finalize destroy"));
    }
  }
}

TEST_CASE("what follows an operation that NCCL lacks is posted behind it") {
  std::array<int, 2> calls{};
  std::array<int, 2> calls_before{};
  std::array<bool, 2> was_posted{};
  const auto outcomes = run_pair(
      [&](int rank, nccl::Api& api) {
        api.all_reduce = [real = api.all_reduce, &calls, rank](auto... arguments) {
          ++calls[index(rank)];
          return real(arguments...);
        };
      },
      [&](int rank, NcclCollectives& collectives, FakeAccelerator& accelerator) {
        DeviceCall first(accelerator, nullptr, Bytes(8));
        DeviceCall second(accelerator, nullptr, Bytes(16));
        reduce(collectives, first, DataType::int16, patience());
        reduce(collectives, second, DataType::float32, patience());
        calls_before[index(rank)] = calls[index(rank)];
        was_posted[index(rank)] = collectives.is_posted();
        // No host that advances its own: messages complete in their owner's hands only.
        for (int i = 0; i < 200; ++i) collectives.advance(patience());
        calls_before[index(rank)] += calls[index(rank)];
        collectives.abort();
        accelerator.synchronize();
      });
  for (std::size_t rank = 0; rank < 2; ++rank) {
    CHECK(outcomes[rank].is_ok());
    CHECK(calls_before[rank] == 0);
    CHECK_FALSE(was_posted[rank]);
  }
}

TEST_CASE("an operation is begun when NCCL's call before it has come back, by NCCL or not") {
  std::array<CallersPoster*, 2> posters{};
  std::array<std::string, 2> seen;
  const auto outcomes = run_pair(
      kAsItIs,
      [&](int rank, NcclCollectives& collectives, FakeAccelerator& accelerator) {
        CallersPoster& poster = *posters[index(rank)];
        poster.is_held_back = true;
        DeviceCall call(accelerator, nullptr, Bytes(16));
        const auto look = [&] {
          for (int i = 0; i < 200; ++i) collectives.advance(patience());
          auto calls = accelerator.calls();
          seen[index(rank)] += fmt::format("nccl {} copies {} posted {}; ", calls["nccl"],
                                           calls["copy"], collectives.is_posted());
        };
        reduce(collectives, call, DataType::float32, patience());
        reduce(collectives, call, DataType::int16, patience());
        reduce(collectives, call, DataType::float32, patience());
        look();
        poster.make();
        look();
        collectives.abort();
        accelerator.synchronize();
      },
      patience(), nccl::AllReduceAlgorithm::own_choice, &posters);
  CHECK(outcomes == std::vector<Status>(2));
  for (const std::string& text : seen) {
    CHECK(text == "nccl 0 copies 0 posted false; nccl 1 copies 1 posted false; ");
  }
}

TEST_CASE("a call that does not come back fails at its deadline, whoever advances it") {
  std::array<CallersPoster*, 2> posters{};
  const auto outcomes = run_pair(
      kAsItIs,
      [&](int rank, NcclCollectives& collectives, FakeAccelerator& accelerator) {
        posters[index(rank)]->is_held_back = true;
        DeviceCall call(accelerator, nullptr, Bytes(16));
        const WaitContext later = patience();
        reduce(collectives, call, DataType::float32,
               {Deadline::after(std::chrono::milliseconds(20)), nullptr});
        try {
          while (!later.deadline.has_passed()) collectives.advance(later);
        } catch (const Error&) {
          accelerator.synchronize();
          throw;
        }
      },
      patience(), nccl::AllReduceAlgorithm::own_choice, &posters);
  for (const Status& status : outcomes) {
    CHECK(status.code() == StatusCode::timed_out);
    CHECK_THAT(status.message(), Contains("NCCL: all-reduce: the deadline has passed"));
  }
}

TEST_CASE("who makes NCCL's calls gets ready when an operation is near") {
  NcclWorld nccl;
  LoopbackWorld world(1);
  const auto transport = world.make_transport(0);
  MessageCollectives host(*transport);
  FakeAccelerator accelerator(1);
  NcclCollectives::Needs one = needs(nccl.make_api(accelerator), accelerator, host, {0});
  const auto& poster = static_cast<const test::CallersPoster&>(*one.poster);
  const auto collectives = NcclCollectives::create(std::move(one), patience());
  const int before = poster.times_ready;
  collectives->get_ready();
  CHECK(poster.times_ready == before + 1);
}

TEST_CASE("bytes are counted as they are handed to NCCL") {
  std::array<TransportCounters, 2> counters;
  const auto outcomes =
      run_pair(kAsItIs, [&](int rank, NcclCollectives& collectives, FakeAccelerator& accelerator) {
        DeviceCall call(accelerator, nullptr, Bytes(16));
        reduce(collectives, call, DataType::float32, patience());
        collectives.broadcast(call.data(), 10, 1, nullptr, patience());
        const std::array<std::int64_t, 2> parts{3, 9};
        collectives.all_gather(call.data(), parts, nullptr, patience());
        counters[index(rank)] = collectives.counters();
        accelerator.synchronize();
      });
  CHECK(outcomes == std::vector<Status>(2));
  CHECK(counters[0].bytes_sent == 16 + 0 + 3);
  CHECK(counters[0].messages_sent == 2);
  CHECK(counters[1].bytes_sent == 16 + 10 + 9);
  CHECK(counters[1].messages_sent == 3);
}

TEST_CASE("a rank 0 that cannot begin tells all ranks at once") {
  const auto outcomes = run_pair(
      [](int, nccl::Api& api) {
        api.get_unique_id = [](nccl::UniqueId*) { return nccl::Result::system_error; };
      },
      kNothing);
  CHECK_THAT(outcomes[0].message(), Contains("making a unique id failed"));
  CHECK(outcomes[1].code() == StatusCode::unavailable);
  CHECK_THAT(outcomes[1].message(), Contains("rank 0"));
}

TEST_CASE("who never connects is left at the deadline, or when a rank is lost") {
  // Both have the unique id by then: an interrupt before would leave one with the other's memory.
  std::array<std::atomic<bool>, 2> is_connecting{};
  const Edit never = [&](int rank, nccl::Api& api) {
    api.comm_get_async_error = [&, rank](nccl::CommHandle, nccl::Result* state) {
      is_connecting[index(rank)] = true;
      *state = nccl::Result::in_progress;
      return nccl::Result::success;
    };
  };
  const auto late =
      run_pair(never, kNothing, {Deadline::after(std::chrono::milliseconds(300)), nullptr});
  for (const Status& status : late) CHECK(status.code() == StatusCode::timed_out);
  is_connecting[0] = is_connecting[1] = false;
  struct LaterLost final : Interrupt {
    explicit LaterLost(const std::array<std::atomic<bool>, 2>& begun) : is_connecting(begun) {}
    void check() override {
      if (!is_connecting[0] || !is_connecting[1]) return;
      throw Error(StatusCode::rank_lost, "rank 1 is lost");
    }
    const std::array<std::atomic<bool>, 2>& is_connecting;
  } lost(is_connecting);
  const auto interrupted =
      run_pair(never, kNothing, {Deadline::after(std::chrono::seconds(20)), &lost});
  for (const Status& status : interrupted) CHECK(status.code() == StatusCode::rank_lost);
}

TEST_CASE("an error of NCCL is told in check() and ever after, and everything is aborted") {
  std::array<int, 2> aborted{};
  std::array<std::string, 2> later;
  std::array<nccl::Result, 2> state{};
  const auto outcomes = run_pair(
      [&](int rank, nccl::Api& api) {
        api.comm_get_async_error = [real = api.comm_get_async_error, &state, rank](
                                       nccl::CommHandle comm, nccl::Result* result) {
          const nccl::Result asked = real(comm, result);
          if (state[index(rank)] != nccl::Result::success) *result = state[index(rank)];
          return asked;
        };
        api.comm_abort = [&aborted, rank](nccl::CommHandle) {
          ++aborted[index(rank)];
          return nccl::Result::success;
        };
      },
      [&](int rank, NcclCollectives& collectives, FakeAccelerator& accelerator) {
        DeviceCall call(accelerator, nullptr, Bytes(16));
        collectives.check();
        state[index(rank)] = nccl::Result::remote_error;
        try {
          collectives.check();
        } catch (const Error& error) {
          later[index(rank)] = error.what();
        }
        accelerator.synchronize();
        reduce(collectives, call, DataType::float32, patience());
      });
  for (std::size_t rank = 0; rank < 2; ++rank) {
    CHECK(outcomes[rank].code() == StatusCode::rank_lost);
    CHECK(outcomes[rank].message() == later[rank]);
    CHECK(aborted[rank] == 1);
  }
}

TEST_CASE("check() tells an error of the communicator inside a host, too, and all are aborted") {
  const Job job{{{0, 1}, {2}}, 3};
  NcclWorld nccl;
  std::vector<Status> outcomes(3);
  run_job(job, 1024, [&](int rank, HierarchicalCollectives& host) {
    FakeAccelerator accelerator(index(rank));
    nccl::Api api = nccl.make_api(accelerator);
    bool is_failing = false;
    const nccl::CommHandle* inside = nullptr;
    api.comm_split = [&, real = api.comm_split](nccl::CommHandle parent, int color, int key,
                                                nccl::CommHandle* made, nccl::CommConfig* config) {
      inside = made;  // The last one is.
      return real(parent, color, key, made, config);
    };
    api.comm_get_async_error = [&, real = api.comm_get_async_error](nccl::CommHandle comm,
                                                                    nccl::Result* state) {
      const nccl::Result asked = real(comm, state);
      if (is_failing && comm == *inside) *state = nccl::Result::remote_error;
      return asked;
    };
    const auto collectives = NcclCollectives::create(
        needs(std::move(api), accelerator, host, numbers_of(job.hosts, 3)), patience());
    collectives->check();
    is_failing = true;
    try {
      collectives->check();
    } catch (const Error& error) {
      outcomes[index(rank)] = error.status();
    }
  });
  for (const Status& status : outcomes) CHECK(status.code() == StatusCode::rank_lost);
  for (const std::string& end : nccl.ends()) {
    const bool is_whole = end.starts_with("all of rank");
    CHECK_THAT(end, Catch::EndsWith(is_whole ? ": finalize destroy" : ": abort"));
  }
}

TEST_CASE("NCCL asks the tuner for each communicator, and each gets the algorithm") {
  // As NCCL does, with the communicator: it keeps what the tuner calls its context.
  const TunerPlugin& tuner = tuner_plugin();
  std::array<std::vector<void*>, 2> contexts;
  const auto ask = [&](int rank) {
    void* context = nullptr;
    tuner.init(2, 2, nullptr, &context);
    contexts[index(rank)].push_back(context);
  };
  const auto outcomes = run_pair(
      [&](int rank, nccl::Api& api) {
        api.comm_init_rank_config = [=, real = api.comm_init_rank_config](auto... arguments) {
          ask(rank);
          return real(arguments...);
        };
        api.comm_split = [=, real = api.comm_split](auto... arguments) {
          ask(rank);
          return real(arguments...);
        };
      },
      kNothing, patience(), nccl::AllReduceAlgorithm::tree);
  CHECK(outcomes == std::vector<Status>(2));
  void* other = nullptr;
  tuner.init(2, 2, nullptr, &other);
  for (const auto& of_rank : contexts) {
    REQUIRE(of_rank.size() == 2);
    CHECK(of_rank[0] != other);
    CHECK(of_rank[1] == of_rank[0]);
  }
}

TEST_CASE("the description of NCCL has its version and path") {
  std::array<std::string, 2> described;
  run_pair(kAsItIs, [&](int rank, NcclCollectives& collectives, FakeAccelerator&) {
    described[index(rank)] = fmt::format("{}: {}", collectives.name(), collectives.description());
  });
  CHECK(described[0] == "nccl: NCCL 2.28.9 (a world of threads)");
}
