// scalecom-bench: times the operations from submit to completion, in the columns of nccl-tests.

#include <fstream>
#include <iostream>
#include <new>

#include "tools/bench/bench.hpp"
#include "tools/bench/side_by_side.hpp"

namespace {

using namespace scalecom;
using namespace scalecom::bench;
using nlohmann::json;

std::vector<std::int64_t> sizes_of(const Options& options) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t bytes = options.min_bytes; bytes <= options.max_bytes;) {
    sizes.push_back(bytes);
    const auto scaled = static_cast<std::int64_t>(static_cast<double>(bytes) * options.factor);
    bytes = options.step_bytes > 0 ? bytes + options.step_bytes : std::max(bytes + 1, scaled);
  }
  return sizes;
}

json run_table(Session& session, const Options& options, bool& is_right) {
  const bool is_root = session.topology().rank == 0;
  if (is_root) print_header(options, session.topology());
  std::vector<Row> rows;
  json results = json::array();
  for (const std::int64_t bytes : sizes_of(options)) {
    rows.push_back(options.operation == "scalecom" ? run_compressed(session, options, bytes)
                                                   : run_dense(session, options, bytes));
    if (is_root) print_row(options, rows.back());
    is_right = is_right && rows.back().wrong + rows.back().wrong_in_place == 0;
    results.push_back(to_json(options, rows.back()));
  }
  if (is_root) print_footer(rows);
  return results;
}

json run_chosen(Session& session, const Options& options, bool& is_right) {
  if (options.latency_calls > 0) return {{"latency_us", run_latency(session, options)}};
  if (options.burst_tensors > 0) return {{"burst_us", run_burst(session, options)}};
  if (options.explains) return {{"explain", run_explain(session, sizes_of(options))}};
  if (options.idle_s > 0.0) return {{"idle", run_idle(session, options)}};
  if (options.with_peers) return run_side_by_side(session, options, sizes_of(options), is_right);
  return {{"operation", options.operation}, {"results", run_table(session, options, is_right)}};
}

// Before anything is measured for it.
void check_json_path(const std::string& path) {
  if (path.empty() || std::ofstream(path, std::ios::app)) return;
  throw Error(StatusCode::invalid_argument, "--json is " + path +
                                                ", which cannot be written; allowed: a file in a "
                                                "folder that exists and is yours");
}

int run(const Options& options) {
  const auto session = Session::connect(Config::from_environment());
  const Topology& topology = session->topology();
  if (options.operation == "broadcast" && options.root >= topology.size) {
    throw Error(StatusCode::invalid_argument, "--root is " + std::to_string(options.root) +
                                                  "; allowed: 0 to " +
                                                  std::to_string(topology.size - 1));
  }
  if (topology.rank == 0) check_json_path(options.json_path);
  bool is_right = true;
  json report = run_chosen(*session, options, is_right);
  report["ranks"] = topology.size;
  report["transport"] = session->report().transport;
  if (topology.rank == 0 && !options.json_path.empty()) {
    std::ofstream file(options.json_path);
    file << report.dump(2) << "\n";
    if (!file.flush()) {
      throw Error(StatusCode::invalid_argument, "cannot write to " + options.json_path);
    }
  }
  finish(session->barrier());
  return is_right ? 0 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse_options(argc, argv);
  try {
    return run(options);
  } catch (const std::bad_alloc&) {
    std::cerr << "scalecom-bench: out of memory; take a smaller --maxbytes (or --burst, "
                 "--burst-bytes) or fewer ranks a host\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "scalecom-bench: " << error.what() << "\n";
    return 1;
  }
}
