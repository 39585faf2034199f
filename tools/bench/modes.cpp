#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "tools/bench/bench.hpp"
#include "tools/bench/values.hpp"

namespace scalecom::bench {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Call>
double microseconds(Call&& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

}  // namespace

void finish(const Ticket& ticket) {
  const Status status = ticket.wait();
  if (!status.is_ok()) throw Error(status);
}

Timing time_calls(const Options& options, const std::function<void()>& prepare,
                  const std::function<void()>& call) {
  Timing timing;
  for (int i = -options.warmup; i < options.iterations; ++i) {
    prepare();
    const double us = microseconds(call);
    if (i >= 0) timing.sorted_us.push_back(us);
  }
  std::sort(timing.sorted_us.begin(), timing.sorted_us.end());
  return timing;
}

nlohmann::json run_latency(Session& session, const Options& options) {
  Values values(std::max<std::int64_t>(1, options.min_bytes / size_of(options.dtype)),
                options.dtype);
  Options calls = options;
  calls.iterations = options.latency_calls;
  calls.warmup = 200;
  const double cpu_before = cpu_seconds();
  Timing timing;
  const double wall_us = microseconds([&] {
    timing = time_calls(
        calls, [&] { values.fill_input(session.topology().rank); },
        [&] {
          finish(session.all_reduce("latency", values.view(), values.view(), options.reduction()));
        });
  });
  const double cpu_share = (cpu_seconds() - cpu_before) * 1e6 / wall_us;
  nlohmann::json figures = timing.to_json();
  figures["cpu_share"] = cpu_share;
  if (session.topology().rank == 0) {
    std::printf(
        "%lld B all-reduce on %d ranks, blocking, %d calls: median %.1f us, p10 %.1f, p99 "
        "%.1f, max %.1f; %.0f %% of a core\n",
        static_cast<long long>(values.view().bytes()), session.topology().size, calls.iterations,
        timing.median_us(), timing.percentile_us(10), timing.percentile_us(99),
        timing.sorted_us.back(), 100.0 * cpu_share);
  }
  return figures;
}

nlohmann::json run_burst(Session& session, const Options& options) {
  const std::int64_t count =
      std::max<std::int64_t>(1, options.burst_bytes / size_of(options.dtype));
  std::vector<Values> tensors(static_cast<std::size_t>(options.burst_tensors),
                              Values(count, options.dtype));
  std::vector<double> times;
  const std::int64_t batches_before = session.stats().batches_executed;
  for (int i = -options.warmup; i < options.iterations; ++i) {
    for (Values& tensor : tensors) tensor.fill_input(session.topology().rank);
    finish(session.barrier());
    const double us = microseconds([&] {
      std::vector<Ticket> tickets;
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        tickets.push_back(session.all_reduce("burst." + std::to_string(t), tensors[t].view(),
                                             tensors[t].view(), options.reduction()));
      }
      for (const Ticket& ticket : tickets) finish(ticket);
    });
    if (i >= 0) times.push_back(us);
  }
  std::sort(times.begin(), times.end());
  const Timing timing{times};
  const int rounds = options.warmup + options.iterations;
  const double batches =
      static_cast<double>(session.stats().batches_executed - batches_before) / rounds - 1.0;
  if (session.topology().rank == 0) {
    std::printf(
        "%d tensors of %lld B on %d ranks: median %.0f us, min %.0f, max %.0f; %.1f batches\n",
        options.burst_tensors, static_cast<long long>(tensors.front().view().bytes()),
        session.topology().size, timing.median_us(), times.front(), times.back(), batches);
  }
  nlohmann::json figures = timing.to_json();
  figures["batches"] = batches;
  return figures;
}

nlohmann::json run_idle(Session& session, const Options& options) {
  finish(session.barrier());
  const double before = cpu_seconds();
  // The measured thing is that nothing happens in this time.
  std::this_thread::sleep_for(std::chrono::duration<double>(options.idle_s));
  const double share = (cpu_seconds() - before) / options.idle_s;
  if (session.topology().rank == 0) {
    std::printf("idle for %.1f s: %.3f %% of a core\n", options.idle_s, 100.0 * share);
  }
  return {{"idle_s", options.idle_s}, {"cpu_share", share}};
}

}  // namespace scalecom::bench
