#include "tools/bench/side_by_side.hpp"

#include <algorithm>
#include <cstdio>

#include "tools/bench/bench.hpp"
#include "tools/bench/peer_library.hpp"
#include "tools/bench/values.hpp"

namespace scalecom::bench {
namespace {

using nlohmann::json;
using Figures = std::vector<double>;

double median(Figures values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

json spread(const Figures& values) {
  return {{"median", median(values)},
          {"min", *std::min_element(values.begin(), values.end())},
          {"max", *std::max_element(values.begin(), values.end())},
          {"blocks", values}};
}

// Of one size, in place or not: a figure for each block, and elements that came out wrong.
struct Comparison {
  Figures scalecom_us;
  Figures peer_us;
  std::int64_t scalecom_wrong = 0;
  std::int64_t peer_wrong = 0;

  Figures ratios() const {
    Figures ratios;
    for (std::size_t block = 0; block < peer_us.size(); ++block) {
      ratios.push_back(peer_us[block] / scalecom_us[block]);
    }
    return ratios;
  }
  std::int64_t wrong() const { return scalecom_wrong + peer_wrong; }
};

// Both libraries' calls of one size on the same memory.
class SizeComparison {
 public:
  SizeComparison(Session& session, PeerLibrary& peer, const Options& options, std::int64_t count)
      : session_(session),
        peer_(peer),
        options_(options),
        input_(count, options.dtype),
        output_(count, options.dtype) {
    input_.fill_input(session.topology().rank);
  }

  Comparison compare(bool is_in_place) {
    Comparison result;
    const auto scalecom = [&] { reduce_by_scalecom(is_in_place); };
    const auto peer = [&] { reduce_by_peer(is_in_place); };
    for (int block = 0; block < options_.blocks; ++block) {
      // Each library's own meeting: the other's would leave its threads or queues at work.
      result.scalecom_us.push_back(slowest_median_us(
          is_in_place, [&] { meet(); }, scalecom));
      result.peer_us.push_back(slowest_median_us(
          is_in_place, [&] { peer_.barrier(); }, peer));
    }
    if (options_.check) {
      result.scalecom_wrong = count_wrong(is_in_place, scalecom);
      result.peer_wrong = count_wrong(is_in_place, peer);
    }
    return result;
  }

 private:
  // All ranks, as a step of a training would: a barrier is a tensor of its own that no step has.
  void meet() {
    const TensorView view{&meeting_, DataType::float32, {1}, {}};
    finish(session_.all_reduce("bench.meet", view, view));
  }

  void reduce_by_scalecom(bool is_in_place) {
    finish(session_.all_reduce("bench", is_in_place ? output_.view() : input_.view(),
                               output_.view(), options_.reduction()));
  }

  void reduce_by_peer(bool is_in_place) {
    void* output = output_.view().data;
    peer_.all_reduce(is_in_place ? output : input_.view().data, output, output_.count(),
                     options_.dtype, options_.op);
  }

  // Each rank takes the median of its own calls; the largest of these counts, on every rank.
  double slowest_median_us(bool is_in_place, const std::function<void()>& barrier,
                           const std::function<void()>& call) {
    const auto prepare = [&] {
      if (is_in_place) output_ = input_;  // Sums in place would grow from call to call.
      barrier();
    };
    double us = time_calls(options_, prepare, call).median_us();
    const TensorView view{&us, DataType::float64, {1}, {}};
    AllReduceOptions largest;
    largest.op = ReduceOp::max;
    finish(session_.all_reduce("bench.slowest", view, view, largest));
    return us;
  }

  std::int64_t count_wrong(bool is_in_place, const std::function<void()>& call) {
    if (is_in_place) {
      output_ = input_;
    } else {
      output_ =
          Values(output_.count(), options_.dtype);  // No earlier result can pass for this one.
    }
    call();
    return bench::count_wrong(output_.view(), [&](std::int64_t i) {
      return expected_reduction(i, session_.topology().size, options_.op);
    });
  }

  float meeting_ = 0;
  Session& session_;
  PeerLibrary& peer_;
  const Options& options_;
  Values input_;
  Values output_;
};

void print_header(const Options& options, int ranks, const std::string& peer) {
  std::printf(
      "# scalecom-bench %s: %d ranks, %d blocks of %d warm-up and %d timed calls, the libraries "
      "taking turns\n# MPI: %s. Times: medians of the blocks' medians, the slowest rank's. Ratio: "
      "MPI's time over\n# scalecom's in the same block, median and min..max of the blocks; above 1 "
      "scalecom is faster\n",
      options.operation.c_str(), ranks, options.blocks, options.warmup, options.iterations,
      peer.c_str());
  std::printf("#\n# %42s %39s %51s\n", "", "out-of-place", "in-place");
  std::printf("# %12s %12s %8s %7s", "size", "count", "type", "redop");
  for (int i = 0; i < 2; ++i) {
    std::printf("  %10s %10s %7s %13s %6s", "scalecom", "MPI", "ratio", "min..max", "#wrong");
  }
  std::printf("\n# %12s %12s %8s %7s", "(B)", "(elements)", "", "");
  for (int i = 0; i < 2; ++i) std::printf("  %10s %10s %7s %13s %6s", "(us)", "(us)", "", "", "");
  std::printf("\n");
}

void print_comparison(const Comparison& comparison) {
  const Figures ratios = comparison.ratios();
  const auto [smallest, largest] = std::minmax_element(ratios.begin(), ratios.end());
  char range[64];
  std::snprintf(range, sizeof range, "%.2f..%.2f", *smallest, *largest);
  std::printf("  %10.1f %10.1f %7.2f %13s %6lld", median(comparison.scalecom_us),
              median(comparison.peer_us), median(ratios), range,
              static_cast<long long>(comparison.wrong()));
}

json to_json(const Comparison& comparison) {
  return {{"scalecom",
           {{"time_us", spread(comparison.scalecom_us)}, {"wrong", comparison.scalecom_wrong}}},
          {"mpi", {{"time_us", spread(comparison.peer_us)}, {"wrong", comparison.peer_wrong}}},
          {"ratio", spread(comparison.ratios())}};
}

}  // namespace

json run_side_by_side(Session& session, const Options& options,
                      const std::vector<std::int64_t>& sizes, bool& is_right) {
  const std::unique_ptr<PeerLibrary> peer = make_peer_library();
  const bool is_root = session.topology().rank == 0;
  if (is_root) print_header(options, session.topology().size, peer->version());
  json results = json::array();
  std::int64_t wrong = 0;
  for (const std::int64_t bytes : sizes) {
    const std::int64_t count = std::max<std::int64_t>(1, bytes / size_of(options.dtype));
    SizeComparison size(session, *peer, options, count);
    const Comparison out_of_place = size.compare(false);
    const Comparison in_place = size.compare(true);
    wrong += out_of_place.wrong() + in_place.wrong();
    results.push_back({{"size", count * size_of(options.dtype)},
                       {"count", count},
                       {"type", to_string(options.dtype)},
                       {"redop", to_string(options.op)},
                       {"out_of_place", to_json(out_of_place)},
                       {"in_place", to_json(in_place)}});
    if (!is_root) continue;
    std::printf("  %12lld %12lld %8s %7s", static_cast<long long>(count * size_of(options.dtype)),
                static_cast<long long>(count), to_string(options.dtype), to_string(options.op));
    print_comparison(out_of_place);
    print_comparison(in_place);
    std::printf("\n");
    std::fflush(stdout);
  }
  if (is_root) {
    std::printf("# Out of bounds values : %lld %s\n#\n", static_cast<long long>(wrong),
                wrong == 0 ? "OK" : "FAILED");
  }
  is_right = is_right && wrong == 0;
  return {{"operation", options.operation},
          {"peer", peer->version()},
          {"blocks", options.blocks},
          {"results", results}};
}

}  // namespace scalecom::bench
