#include "runtime/tuning/tune.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "base/json_line.hpp"
#include "base/log.hpp"
#include "runtime/tuning/measure.hpp"
#include "runtime/tuning/samples.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

using nlohmann::json;

bool is_first(const TuningTask& task) { return task.bootstrap.rank() == 0; }

std::string path_of(const TuningTask& task) {
  return tuning_file_path(task.cache_directory, task.key);
}

// Rank 0's finding as text, empty without one.
std::string find_cached(const TuningTask& task) {
  if (!is_first(task) || task.cache_directory.empty()) return {};
  const TuningFile file = read_tuning_file(path_of(task), task.key, task.board.slot_bytes());
  if (!file.problem.empty()) {
    log_warning(fmt::format("{} is not used: {}; it is measured and written anew", path_of(task),
                            file.problem));
  }
  if (!file.tuning) return {};
  return to_json_line({{"path", path_of(task)}, {"tuning", to_json(*file.tuning)}});
}

void keep(const TuningTask& task, const Tuning& tuning) {
  if (!is_first(task) || task.cache_directory.empty()) return;
  const std::string problem = write_tuning_file(path_of(task), task.key, tuning);
  if (!problem.empty()) {
    log_info(fmt::format("{} cannot be written: {}; the next start measures again", path_of(task),
                         problem));
  }
}

// This rank's figures, or why there are none.
std::string measure(const TuningTask& task) {
  const WaitContext context{Deadline::after(task.limit)};
  Samples samples;
  try {
    // Every figure at two times: others that use the cores for a moment are seldom in both.
    for (int round = 0; round < 2; ++round) {
      measure_kernels(task.board, task.key.ranks, task.threads, task.plan, context, samples);
      measure_inside(task.board, task.defaults, task.plan, context, samples);
      if (task.hosts.size() == 1) {
        measure_shm_choices(task.board, task.defaults, task.plan, context, samples);
      } else {
        measure_link(task.transport, task.hosts, task.plan, context, samples);
      }
    }
  } catch (const Error& error) {
    return to_json_line({{"problem", error.what()}});
  }
  return json{{"samples", samples}}.dump();
}

}  // namespace

TuningResult tune(const TuningTask& task) {
  const std::string cached = task.bootstrap.exchange(find_cached(task), task.limit).front();
  if (!cached.empty()) {
    const json found = json::parse(cached);
    return {parse_tuning(found.at("tuning"), task.board.slot_bytes()),
            "file " + found.at("path").get<std::string>()};
  }
  // Every rank gets every rank's figures, and they choose alike. A rank whose wait ended by its
  // deadline says so here, where nobody is left behind: then all of them stay with the defaults.
  std::vector<Samples> by_rank;
  for (const std::string& text : task.bootstrap.exchange(measure(task), 2 * task.limit)) {
    const json said = json::parse(text);
    if (said.contains("problem")) {
      if (is_first(task)) {
        log_warning(fmt::format(
            "the costs of communication cannot be measured (rank {}: {}); defaults are used, "
            "SCALECOM_TUNE=off does so without measuring",
            by_rank.size(), said.at("problem").get<std::string>()));
      }
      return {task.defaults, "defaults", true};
    }
    by_rank.push_back(said.at("samples").get<Samples>());
  }
  const auto hosts = static_cast<int>(task.hosts.size());
  const Tuning tuning =
      choose_tuning(task.defaults, slowest(by_rank), hosts, task.board.slot_bytes());
  keep(task, tuning);
  return {tuning, "measured now"};
}

}  // namespace scalecom
