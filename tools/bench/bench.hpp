#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "scalecom/scalecom.hpp"
#include "tools/bench/options.hpp"

namespace scalecom::bench {

/// Times of one kind of call, microseconds from submit to completion on this rank.
struct Timing {
  std::vector<double> sorted_us;

  double median_us() const { return sorted_us[sorted_us.size() / 2]; }
  double percentile_us(int percent) const {
    return sorted_us[(sorted_us.size() - 1) * static_cast<std::size_t>(percent) / 100];
  }
  nlohmann::json to_json() const {
    return {{"median", median_us()},
            {"min", sorted_us.front()},
            {"p99", percentile_us(99)},
            {"max", sorted_us.back()}};
  }
};

/// Calls `call` warmup + iterations times, `prepare` before each and not timed. Throws Error when a
/// call fails.
Timing time_calls(const Options& options, const std::function<void()>& prepare,
                  const std::function<void()>& call);

/// Waits; throws Error when the operation failed.
void finish(const Ticket& ticket);

/// One line of the table.
struct Row {
  std::int64_t bytes = 0;
  std::int64_t count = 0;
  Timing out_of_place;
  Timing in_place;
  std::int64_t wrong = 0;           ///< out of place
  std::int64_t wrong_in_place = 0;  ///< scalecom: coordinates that break the conservation law
  double bus_factor = 1.0;          ///< bus bandwidth over algorithm bandwidth
  nlohmann::json extra = nlohmann::json::object();

  double algorithm_gbs(const Timing& timing) const {
    return static_cast<double>(bytes) / timing.median_us() / 1e3;
  }
};

Row run_dense(Session& session, const Options& options, std::int64_t bytes);
Row run_compressed(Session& session, const Options& options, std::int64_t bytes);

/// The modes instead of a table; each prints and returns its figures.
nlohmann::json run_latency(Session& session, const Options& options);
nlohmann::json run_burst(Session& session, const Options& options);
nlohmann::json run_idle(Session& session, const Options& options);
nlohmann::json run_explain(Session& session, const std::vector<std::int64_t>& sizes);

void print_header(const Options& options, const Topology& topology);
void print_row(const Options& options, const Row& row);
void print_footer(const std::vector<Row>& rows);
nlohmann::json to_json(const Options& options, const Row& row);

}  // namespace scalecom::bench
