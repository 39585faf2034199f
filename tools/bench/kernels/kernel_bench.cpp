// scalecom-kernel-bench: how close the passes over a tensor come to the machine's `a += b`.
//
// One core, float32 out of cache unless a name says otherwise. The benchmarks of all names run
// interleaved in random order, several times each, so that a change of the machine's speed meets
// all of them; the table at the end gives medians. Bytes are those that the pass has to move:
// 12 an element for a += b and for a sweep (read g, read m, write m), 16 with the result. The usual
// flags of Google Benchmark work, --benchmark_out=FILE with JSON among them.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/reduce.hpp"
#include "kernels/select.hpp"

namespace {

using namespace scalecom;

constexpr std::int64_t kCount = std::int64_t{1} << 26;  // 256 MiB of float32
constexpr std::int64_t kChunks[] = {2,   4,   8,   16,  25,   32,   50,   64,
                                    100, 128, 256, 400, 1000, 1024, 65536};
constexpr char kBaseline[] = "a += b";

/// Three tensors that all benchmarks share.
struct Tensors {
  std::vector<float> a = std::vector<float>(kCount);
  std::vector<float> b = std::vector<float>(kCount);
  std::vector<float> c = std::vector<float>(kCount);
  std::vector<std::uint16_t> offsets = std::vector<std::uint16_t>(kCount);
  std::vector<float> values = std::vector<float>(kCount / kChunks[0] + 1);
  std::vector<float> kept = std::vector<float>(kCount / kChunks[0] + 1);

  /// The same values as bfloat16, and values from 1 to 2 as float16.
  std::vector<std::uint16_t> bfloats = std::vector<std::uint16_t>(kCount);
  std::vector<std::uint16_t> short_sums = std::vector<std::uint16_t>(kCount);
  std::vector<std::uint16_t> halves = std::vector<std::uint16_t>(kCount);

  Tensors() {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    std::vector<float> period(65521);
    for (float& value : period) value = normal(generator);
    for (std::size_t i = 0; i < b.size(); ++i) {
      b[i] = period[i % period.size()];
      bfloats[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(b[i]) >> 16);
      halves[i] = static_cast<std::uint16_t>(0x3C00 + i % 1009);
    }
  }

  std::byte* input(DataType dtype) {
    switch (dtype) {
      case DataType::float16: return reinterpret_cast<std::byte*>(halves.data());
      case DataType::bfloat16: return reinterpret_cast<std::byte*>(bfloats.data());
      default: return reinterpret_cast<std::byte*>(b.data());
    }
  }

  std::byte* sums(DataType dtype) {
    return dtype == DataType::float32 ? reinterpret_cast<std::byte*>(a.data())
                                      : reinterpret_cast<std::byte*>(short_sums.data());
  }

  kernels::Selected selected(DataType dtype = DataType::float32) {
    return {reinterpret_cast<std::byte*>(values.data()), dtype,
            std::numeric_limits<float>::infinity(), kept.data()};
  }

  kernels::Gradient gradient(DataType dtype = DataType::float32) {
    return {input(dtype), dtype, kCount, 1.0f};
  }
};

std::byte* bytes_of(std::vector<float>& values) {
  return reinterpret_cast<std::byte*>(values.data());
}

void add(float* a, const float* b, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) a[i] += b[i];
}

/// The benchmarks' names in the order of the table.
using Names = std::vector<std::string>;

/// Registers a benchmark of `body`, which moves `bytes_an_element`.
template <class Body>
void add_benchmark(Names& names, const std::string& name, double bytes_an_element, Body body) {
  names.push_back(name);
  const auto run = [=](benchmark::State& state) {
    for (auto _ : state) {
      body();
      benchmark::ClobberMemory();
    }
    const double bytes = bytes_an_element * static_cast<double>(kCount);
    state.SetBytesProcessed(static_cast<std::int64_t>(bytes) *
                            static_cast<std::int64_t>(state.iterations()));
  };
  benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMillisecond);
}

void add_sweeps(Names& names, Tensors& t) {
  for (const std::int64_t chunk : kChunks) {
    add_benchmark(names, fmt::format("select and sweep, C = {}", chunk), 12, [&t, chunk] {
      kernels::select_and_sweep(t.a.data(), t.gradient(), 0.1f, chunk, t.offsets.data(),
                                t.selected());
    });
  }
  for (const DataType dtype : {DataType::float16, DataType::bfloat16}) {
    add_benchmark(names, fmt::format("select and sweep, C = 100, {}", to_string(dtype)), 10,
                  [&t, dtype] {
                    kernels::select_and_sweep(t.a.data(), t.gradient(dtype), 0.1f, 100,
                                              t.offsets.data(), t.selected());
                  });
    add_benchmark(names, fmt::format("select and sweep, C = 100, {} values", to_string(dtype)), 12,
                  [&t, dtype] {
                    kernels::select_and_sweep(t.a.data(), t.gradient(), 0.1f, 100, t.offsets.data(),
                                              t.selected(dtype));
                  });
  }
  add_benchmark(names, "undo of a sweep", 12,
                [&t] { kernels::undo_sweep(t.a.data(), t.gradient(), 0.1f); });
}

void add_copies(Names& names, Tensors& t) {
  const auto reduce = [&names, &t](const char* name, DataType dtype) {
    add_benchmark(names, name, 3.0 * static_cast<double>(size_of(dtype)), [&t, dtype] {
      std::byte* const sums = t.sums(dtype);
      kernels::reduce(sums, sums, t.input(dtype), kCount, dtype, ReduceOp::sum);
    });
  };
  reduce("reduce, float32 sum", DataType::float32);
  reduce("reduce, float16 sum", DataType::float16);
  reduce("reduce, bfloat16 sum", DataType::bfloat16);
  const auto scale = [&names, &t](const char* name, DataType dtype, kernels::Scale factor) {
    add_benchmark(names, name, 2.0 * static_cast<double>(size_of(dtype)), [&t, dtype, factor] {
      kernels::scale_copy(bytes_of(t.c), t.input(dtype), kCount, dtype, factor);
    });
  };
  add_benchmark(names, "memcpy", 8, [&t] { std::copy(t.b.begin(), t.b.end(), t.c.begin()); });
  scale("scale_copy, float32 * 1", DataType::float32, {1.0, 1.0});
  scale("scale_copy, float32 / 4", DataType::float32, {1.0, 4.0});
  scale("scale_copy, float32 / 3", DataType::float32, {1.0, 3.0});
  scale("scale_copy, float32 * 0.1 / 3", DataType::float32, {0.1, 3.0});
  scale("scale_copy, bfloat16 / 3", DataType::bfloat16, {1.0, 3.0});
}

/// A follower's sweep, the results, and both as one step of 16 bytes an element.
void add_selected(Names& names, Tensors& t, std::int64_t chunk) {
  auto offsets = std::make_shared<std::vector<std::uint16_t>>();
  for (std::int64_t j = 0; j * chunk < kCount; ++j) {
    offsets->push_back(static_cast<std::uint16_t>(j * 7919 % std::min(chunk, kCount - j * chunk)));
  }
  const auto gather = [&t, chunk, offsets] {
    kernels::gather_and_sweep(t.a.data(), t.gradient(), 0.1f, chunk, offsets->data(), t.selected());
  };
  const auto fill = [&t, chunk, offsets] {
    kernels::fill_selected(bytes_of(t.c), DataType::float32, kCount, chunk, offsets->data(),
                           t.values.data());
  };
  add_benchmark(names, fmt::format("gather and sweep, C = {}", chunk), 12, gather);
  add_benchmark(names, fmt::format("fill, C = {}", chunk), 4, fill);
  add_benchmark(names, fmt::format("follower's step, C = {}", chunk), 16, [gather, fill] {
    gather();
    fill();
  });
  add_benchmark(names, fmt::format("leader's step, C = {}", chunk), 16, [&t, chunk, offsets, fill] {
    kernels::select_and_sweep(t.a.data(), t.gradient(), 0.1f, chunk, t.offsets.data(),
                              t.selected());
    fill();
  });
}

/// Prints medians and their ratio to the baseline once all have run.
class RatioReporter : public benchmark::ConsoleReporter {
 public:
  /// `names` in the order of the table; outlives the reporter.
  explicit RatioReporter(const std::vector<std::string>& names) : names_(names) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      const std::string name = run.run_name.function_name;
      speeds_[name].push_back(run.counters.at("bytes_per_second"));
    }
  }

  void Finalize() override {
    const double baseline = speeds_.count(kBaseline) == 0 ? 0.0 : median(kBaseline);
    fmt::print("{} elements, SIMD target {}\n\n", kCount, kernels::simd_target());
    fmt::print("{:34} {:>10} {:>10}\n", "pass", "GB/s", "of a += b");
    for (const std::string& name : names_) {
      if (speeds_.count(name) == 0) continue;  // filtered out
      fmt::print("{:34} {:10.2f} {:9.1f}%\n", name, median(name) / 1e9,
                 baseline > 0.0 ? 100.0 * median(name) / baseline : 0.0);
    }
  }

 private:
  double median(const std::string& name) {
    std::vector<double>& values = speeds_[name];
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  const std::vector<std::string>& names_;
  std::map<std::string, std::vector<double>> speeds_;
};

}  // namespace

int main(int argc, char** argv) {
  // Before the caller's flags, which win.
  std::vector<std::string> defaults = {"--benchmark_enable_random_interleaving=true",
                                       "--benchmark_repetitions=7", "--benchmark_min_time=0.15"};
  std::vector<char*> arguments = {argv[0]};
  for (std::string& flag : defaults) arguments.push_back(flag.data());
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  Tensors tensors;
  Names names;
  add_benchmark(names, kBaseline, 12, [&] { add(tensors.a.data(), tensors.b.data(), kCount); });
  add_sweeps(names, tensors);
  add_copies(names, tensors);
  for (const std::int64_t chunk : {64, 100, 400, 1024}) add_selected(names, tensors, chunk);
  RatioReporter reporter(names);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return 0;
}
