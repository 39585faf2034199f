#include <cstdio>

#include "tools/bench/bench.hpp"

namespace scalecom::bench {
namespace {

bool is_compressed(const Options& options) { return options.operation == "scalecom"; }

void print_timing(const Row& row, const Timing& timing, std::int64_t wrong) {
  const double algorithm = row.algorithm_gbs(timing);
  std::printf("  %9.1f %7.2f %7.2f %6lld", timing.median_us(), algorithm,
              algorithm * row.bus_factor, static_cast<long long>(wrong));
}

const char* op_name(const Options& options) {
  const bool reduces = options.operation == "all_reduce" || options.operation == "reduce_scatter";
  if (is_compressed(options)) return "avg";
  return reduces ? to_string(options.op) : "none";
}

}  // namespace

void print_header(const Options& options, const Topology& topology) {
  std::printf("# scalecom-bench %s: %d ranks, %d warm-up and %d timed calls, medians\n",
              options.operation.c_str(), topology.size, options.warmup, options.iterations);
  std::printf("#\n# %45s %26s %32s\n", "", "out-of-place", "in-place");
  std::printf("# %12s %12s %8s %7s %5s  %9s %7s %7s %6s  %9s %7s %7s %6s%s\n", "size", "count",
              "type", "redop", "root", "time", "algbw", "busbw", "#wrong", "time", "algbw", "busbw",
              "#wrong", is_compressed(options) ? "    ratio  wire bytes  rel. error" : "");
  std::printf("# %12s %12s %8s %7s %5s  %9s %7s %7s %6s  %9s %7s %7s\n", "(B)", "(elements)", "",
              "", "", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "(GB/s)", "(GB/s)");
}

void print_row(const Options& options, const Row& row) {
  const int root = options.operation == "broadcast" ? options.root : -1;
  std::printf("  %12lld %12lld %8s %7s %5d", static_cast<long long>(row.bytes),
              static_cast<long long>(row.count), to_string(options.dtype), op_name(options), root);
  print_timing(row, row.out_of_place, row.wrong);
  print_timing(row, row.in_place, row.wrong_in_place);
  if (is_compressed(options)) {
    std::printf("  %7.1f  %10.0f  %10.4f", row.extra["ratio"].get<double>(),
                row.extra["wire_bytes"].get<double>(), row.extra["relative_error"].get<double>());
  }
  std::printf("\n");
  std::fflush(stdout);
}

void print_footer(const std::vector<Row>& rows) {
  std::int64_t wrong = 0;
  double bandwidth = 0.0;
  for (const Row& row : rows) {
    wrong += row.wrong + row.wrong_in_place;
    bandwidth += row.bus_factor *
                 (row.algorithm_gbs(row.out_of_place) + row.algorithm_gbs(row.in_place)) / 2.0;
  }
  std::printf("# Out of bounds values : %lld %s\n", static_cast<long long>(wrong),
              wrong == 0 ? "OK" : "FAILED");
  std::printf("# Avg bus bandwidth    : %.4f GB/s\n#\n",
              rows.empty() ? 0.0 : bandwidth / static_cast<double>(rows.size()));
}

nlohmann::json to_json(const Options& options, const Row& row) {
  const auto timing = [&](const Timing& times, std::int64_t wrong) {
    return nlohmann::json{{"time_us", times.to_json()},
                          {"algbw_gbs", row.algorithm_gbs(times)},
                          {"busbw_gbs", row.algorithm_gbs(times) * row.bus_factor},
                          {"wrong", wrong}};
  };
  nlohmann::json object = {{"size", row.bytes},
                           {"count", row.count},
                           {"type", to_string(options.dtype)},
                           {"redop", op_name(options)},
                           {"root", options.operation == "broadcast" ? options.root : -1},
                           {"out_of_place", timing(row.out_of_place, row.wrong)},
                           {"in_place", timing(row.in_place, row.wrong_in_place)}};
  object.update(row.extra);
  return object;
}

}  // namespace scalecom::bench
