#include "runtime/device/device_costs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "base/error.hpp"
#include "base/log.hpp"
#include "collective/device/device_all_reduce.hpp"
#include "runtime/device/gather_records.hpp"

namespace scalecom {
namespace {

// Passes enqueued at once, so that neither the first one's launch nor the look at the end counts.
constexpr int kPassesInRow = 4;
// The fastest counts: load only ever makes them slower.
constexpr int kCalls = 3;

constexpr double kNever = std::numeric_limits<double>::infinity();

using Times = std::array<double, 3>;

// The passes of a sharded step over one tensor, and dense all-reduces.
class Bench {
 public:
  Bench(DeviceLane& lane, Collectives& host, const MeasuredSizes& sizes, const WaitContext& context)
      : lane_(lane),
        host_(host),
        sizes_(sizes),
        context_(context),
        end_(lane_.accelerator().make_event()) {
    const std::int64_t chunks = sizes_.elements / kShortChunk;
    const auto bytes = static_cast<std::size_t>(3 * sizes_.elements * 4 + chunks * (3 * 4 + 2) + 8);
    memory_ = lane_.accelerator().allocate(bytes, {lane_.passes(), lane_.passes()});
    lane_.accelerator().set_zero(memory_.get(), bytes, lane_.passes());
    // So that nothing is missing in the middle of an all-reduce.
    lane_.acquire(DeviceLane::Buffer::packed, static_cast<std::size_t>(sizes_.many_bytes));
    auto* const floats = reinterpret_cast<float*>(memory_.get());
    tensor_.gradient = {reinterpret_cast<std::byte*>(floats), DataType::float32, sizes_.elements};
    tensor_.residual = floats + sizes_.elements;
    tensor_.result = reinterpret_cast<std::byte*>(floats + 2 * sizes_.elements);
    float* const selected = floats + 3 * sizes_.elements;
    tensor_.selected.values = reinterpret_cast<std::byte*>(selected);
    tensor_.selected.kept = selected + chunks;
    tensor_.reduced = selected + 2 * chunks;
    tensor_.offsets = reinterpret_cast<std::uint16_t*>(selected + 3 * chunks);
    tensor_.nonfinite = reinterpret_cast<std::int64_t*>(tensor_.offsets + chunks);
  }

  // Of sweeps and fills at kPassChunk, and of both at kShortChunk.
  Times time_passes() {
    const auto sweep = [this] {
      lane_.steps().select_and_sweep(lane_.passes(), {0, 1});
      lane_.steps().gather_and_sweep(lane_.passes(), {0, 1});
    };
    const auto fill = [this] { lane_.steps().fill_selected(lane_.passes()); };
    cut(kPassChunk);
    const double swept_s = seconds_of(sweep);
    const double filled_s = seconds_of(fill);
    cut(kShortChunk);
    return {swept_s, filled_s, seconds_of(sweep) + seconds_of(fill)};
  }

  // Of few bytes and of many.
  Times time_all_reduces() {
    return {all_reduce_seconds(sizes_.few_bytes), all_reduce_seconds(sizes_.many_bytes), 0.0};
  }

 private:
  // An n-th for the pass that selects, the rest for the one that takes what others have selected.
  void cut(std::int64_t chunk) {
    finish();
    const std::int64_t chunks = sizes_.elements / chunk;
    const std::int64_t own = chunks / lane_.collectives().size();
    StepTensor mine = tensor_;
    mine.chunk = chunk;
    StepTensor others = mine;
    mine.gradient.count = own * chunk;
    others.gradient.count = (chunks - own) * chunk;
    others.gradient.data += own * chunk * size_of(DataType::float32);
    others.residual += own * chunk;
    others.result += own * chunk * size_of(DataType::float32);
    others.selected.values += own * size_of(DataType::float32);
    others.selected.kept += own;
    others.reduced += own;
    others.offsets += own;
    lane_.assign(std::array{mine, others});
  }

  double seconds_of(const std::function<void()>& pass) {
    pass();
    finish();
    double fastest_s = kNever;
    for (int call = 0; call < kCalls; ++call) {
      const TimePoint begin = Clock::now();
      for (int i = 0; i < kPassesInRow; ++i) pass();
      finish();
      fastest_s = std::min(fastest_s, seconds_since(begin) / kPassesInRow);
    }
    return fastest_s;
  }

  // Two tensors in one batch, of which the mean is wanted.
  double all_reduce_seconds(std::int64_t bytes) {
    const std::int64_t count = bytes / 2 / size_of(DataType::float32);
    std::vector<DevicePiece> pieces(2);
    for (DevicePiece& piece : pieces) {
      std::byte* const values = tensor_.result;
      piece.piece = {values, values, count, {}, {1.0 / lane_.collectives().size()}};
    }
    double fastest_s = kNever;
    for (int call = 0; call < kCalls; ++call) {
      const TimePoint begin = Clock::now();
      DeviceAllReduce all_reduce(lane_, pieces, DataType::float32, ReduceOp::sum);
      while (const auto start = all_reduce.step()) {
        start(context_);
        post();
      }
      finish();
      fastest_s = std::min(fastest_s, seconds_since(begin));
    }
    return fastest_s;
  }

  void post() {
    WaitLoop loop(context_);
    while (!lane_.collectives().is_posted()) {
      const bool has_moved = host_.advance(context_);
      if (lane_.collectives().advance(context_) || has_moved) {
        loop.restart();
      } else {
        loop.pause("an all-reduce that measures the CUDA devices");
      }
    }
  }

  void finish() {
    Accelerator& accelerator = lane_.accelerator();
    accelerator.record(end_.get(), lane_.passes());
    WaitLoop loop(context_);
    while (!accelerator.is_done(end_.get())) {
      lane_.collectives().check();
      loop.pause("passes that measure the CUDA device");
    }
  }

  static double seconds_since(TimePoint begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  DeviceLane& lane_;
  Collectives& host_;
  const MeasuredSizes sizes_;
  const WaitContext& context_;
  EventOwner end_;
  AcceleratorMemory memory_;
  StepTensor tensor_;
};

Times slowest(const Times& mine, std::size_t size, Collectives& host, const WaitContext& context) {
  Times times = mine;
  for (const Times& one : gather_records(mine, host, size, context)) {
    for (std::size_t i = 0; i < times.size(); ++i) times[i] = std::max(times[i], one[i]);
  }
  return times;
}

KernelCosts kernel_costs(const Times& passes, std::int64_t count) {
  const auto elements = static_cast<double>(count);
  const auto [swept_s, filled_s, short_s] = passes;
  return {elements / swept_s, elements / filled_s,
          taken_elements_per_s(swept_s / elements, (swept_s + filled_s) / elements,
                               short_s / elements)};
}

}  // namespace

bool DeviceCosts::is_measured() const noexcept { return std::isfinite(all_reduce_s); }

double DeviceCosts::all_reduce_time_s(std::int64_t bytes) const noexcept {
  return all_reduce_s + static_cast<double>(bytes) * all_reduce_byte_s;
}

std::string describe(const DeviceCosts& costs) {
  if (!costs.is_measured()) {
    return "a rank could not measure its CUDA device; its log says why";
  }
  return fmt::format(
      "a dense batch takes {:.0f} us and {:.3g} ms for each MB; compressing sweeps {:.3g} and "
      "fills {:.3g} thousand million elements a second",
      1e6 * costs.all_reduce_s, 1e9 * costs.all_reduce_byte_s,
      1e-9 * costs.kernels.swept_elements_per_s, 1e-9 * costs.kernels.filled_elements_per_s);
}

DeviceCosts measure_device_costs(DeviceLane& lane, Collectives& host, const MeasuredSizes& sizes,
                                 const WaitContext& context) {
  const auto size = static_cast<std::size_t>(lane.collectives().size());
  std::optional<Bench> bench;
  Times passes{kNever, kNever, kNever};
  try {
    passes = bench.emplace(lane, host, sizes, context).time_passes();
  } catch (const Error& error) {
    if (error.code() != StatusCode::unavailable) throw;
    log_warning(fmt::format(
        "rank {}: CUDA tensors of mode auto go dense, as its device cannot be measured: {}",
        host.rank(), error.what()));
  }
  DeviceCosts costs;
  costs.all_reduce_s = kNever;
  passes = slowest(passes, size, host, context);
  if (!std::isfinite(passes.front())) return costs;
  const auto [few_s, many_s, none] = slowest(bench->time_all_reduces(), size, host, context);
  costs.kernels = kernel_costs(passes, sizes.elements);
  costs.all_reduce_byte_s =
      std::max(many_s - few_s, 0.0) / static_cast<double>(sizes.many_bytes - sizes.few_bytes);
  costs.all_reduce_s =
      std::max(many_s - static_cast<double>(sizes.many_bytes) * costs.all_reduce_byte_s, 0.0);
  return costs;
}

}  // namespace scalecom
