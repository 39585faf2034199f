#include "tools/bench/cuda/rounds.hpp"

#include <algorithm>
#include <numeric>
#include <random>

namespace scalecom::bench {
namespace {

using device::cuda::Event;

double run_once(const Workload& workload, const device::cuda::Stream& stream, Event& begin,
                Event& end) {
  if (workload.prepare) workload.prepare(stream.handle());
  device::cuda::record(begin.handle(), stream.handle());
  workload.run(stream.handle());
  device::cuda::record(end.handle(), stream.handle());
  stream.synchronize();
  return end.milliseconds_since(begin) / workload.calls;
}

}  // namespace

std::vector<Measured> measure(const std::vector<Workload>& workloads, int rounds) {
  const device::cuda::Stream stream;
  Event begin(Event::Kind::timed);
  Event end(Event::Kind::timed);
  std::vector<std::vector<double>> times(workloads.size());
  std::vector<std::size_t> order(workloads.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937 generator(1);
  constexpr int kWarmUps = 2;
  for (int round = 0; round < kWarmUps + rounds; ++round) {
    std::shuffle(order.begin(), order.end(), generator);
    for (const std::size_t i : order) {
      const double time = run_once(workloads[i], stream, begin, end);
      if (round >= kWarmUps) times[i].push_back(time);
    }
  }
  std::vector<Measured> measured;
  for (std::vector<double>& samples : times) {
    std::sort(samples.begin(), samples.end());
    measured.push_back({samples[samples.size() / 2], samples.front(), samples.back()});
  }
  return measured;
}

}  // namespace scalecom::bench
