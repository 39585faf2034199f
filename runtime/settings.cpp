#include "runtime/settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <sstream>

#include "base/error.hpp"
#include "collective/selector.hpp"
#include "runtime/negotiation.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

constexpr std::array<const char*, 7> kLogLevels{"trace", "debug", "info", "warning",
                                                "error", "fatal", "off"};

bool parse_integer(const std::string& text, std::int64_t min, std::int64_t max,
                   std::int64_t& value) {
  std::int64_t parsed = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, parsed);
  if (error != std::errc() || stopped != end || parsed < min || parsed > max) return false;
  value = parsed;
  return true;
}

bool parse_real(const std::string& text, double min, double max, double& value) {
  double parsed = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, parsed);
  if (error != std::errc() || stopped != end || !(parsed >= min && parsed <= max)) return false;
  value = parsed;
  return true;
}

// Words may be written in capitals: horovodrun writes log levels so.
std::string lower_case(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

bool parse_flag(const std::string& word, bool& value) {
  const std::string text = lower_case(word);
  if (text != "0" && text != "1" && text != "true" && text != "false") return false;
  value = text == "1" || text == "true";
  return true;
}

Setting integer(std::string name, std::int64_t Config::*member, std::int64_t min, std::int64_t max,
                std::string unit, std::string description) {
  return {std::move(name),
          std::move(unit),
          fmt::format("{} to {}", min, max),
          std::move(description),
          [=](Config& config, const std::string& text) {
            return parse_integer(text, min, max, config.*member);
          },
          [=](const Config& config) { return std::to_string(config.*member); }};
}

Setting real(std::string name, double Config::*member, double min, double max, std::string unit,
             std::string description) {
  return {std::move(name),
          std::move(unit),
          fmt::format("{:g} to {:g}", min, max),
          std::move(description),
          [=](Config& config, const std::string& text) {
            return parse_real(text, min, max, config.*member);
          },
          [=](const Config& config) { return fmt::format("{:g}", config.*member); }};
}

Setting flag(std::string name, bool Config::*member, std::string description) {
  return {std::move(name),
          "",
          "0, 1, false, true",
          std::move(description),
          [=](Config& config, const std::string& text) { return parse_flag(text, config.*member); },
          [=](const Config& config) { return std::string(config.*member ? "1" : "0"); }};
}

Setting choice(std::string name, std::string Config::*member, std::vector<std::string> allowed,
               std::string description) {
  return {std::move(name),
          "",
          fmt::format("{}", fmt::join(allowed, ", ")),
          std::move(description),
          [=](Config& config, const std::string& word) {
            const std::string text = lower_case(word);
            if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) return false;
            config.*member = text;
            return true;
          },
          [=](const Config& config) { return config.*member; }};
}

Setting free_text(std::string name, std::string Config::*member, std::string allowed,
                  std::string description) {
  return {std::move(name),
          "",
          std::move(allowed),
          std::move(description),
          [=](Config& config, const std::string& value) {
            config.*member = value;
            return true;
          },
          [=](const Config& config) { return config.*member; }};
}

Setting cycle_time() {
  return {
      "CYCLE_TIME",
      "ms",
      fmt::format("adaptive, or 0 to {:g}", kCycleTimeMaxMs),
      "Longest time a batch that is not full waits for tensors known to be on their way. Nothing "
      "waits when all known tensors are in.",
      [](Config& config, const std::string& text) {
        if (lower_case(text) == "adaptive") {
          config.cycle_time_ms = kAdaptiveCycleTime;
          return true;
        }
        return parse_real(text, 0.0, kCycleTimeMaxMs, config.cycle_time_ms);
      },
      [](const Config& config) { return describe_cycle_time(config.cycle_time_ms); }};
}

Setting rendezvous() {
  Setting setting =
      free_text("RENDEZVOUS", &Config::rendezvous,
                "host:port, with a port of 1 to 65535, and an IPv6 address in brackets",
                "Where the ranks of a job without MPI meet, on the host of rank 0. Not set: at "
                "MASTER_ADDR, on the first free one of the 16 ports behind MASTER_PORT.");
  setting.parse = [parse = setting.parse](Config& config, const std::string& text) {
    return parse_place(text) && parse(config, text);
  };
  return setting;
}

Setting rendezvous_key() {
  Setting setting = free_text(
      "RENDEZVOUS_KEY", &Config::rendezvous_key, "any text",
      "A secret that ranks must know to be let in where they meet, and that is never shown: "
      "needed where strangers reach the host of rank 0 over the network.");
  setting.print = [](const Config& config) { return config.rendezvous_key.empty() ? "" : "set"; };
  return setting;
}

Setting must_agree(Setting setting) {
  setting.must_agree = true;
  return setting;
}

// Accepted so that a job moves over from Horovod unchanged. Values are kept as they are.
Setting without_effect(std::string name, std::string unit, std::string allowed,
                       std::string description,
                       std::function<bool(const std::string&)> is_allowed) {
  Setting setting{name,
                  std::move(unit),
                  std::move(allowed),
                  std::move(description),
                  [is_allowed](Config&, const std::string& text) { return is_allowed(text); },
                  [name](const Config& config) {
                    const auto found = config.sources.find(name);
                    return found == config.sources.end() ? std::string() : "set";
                  }};
  setting.has_effect = false;
  return setting;
}

Setting idle_flag(std::string name, std::string description) {
  return without_effect(std::move(name), "", "0, 1, false, true", std::move(description),
                        [](const std::string& text) {
                          bool ignored = false;
                          return parse_flag(text, ignored);
                        });
}

Setting idle_number(std::string name, double max, std::string unit, std::string description) {
  return without_effect(std::move(name), std::move(unit), fmt::format("0 to {:g}", max),
                        std::move(description), [max](const std::string& text) {
                          double ignored = 0;
                          return parse_real(text, 0.0, max, ignored);
                        });
}

Setting idle_text(std::string name, std::string description) {
  return without_effect(std::move(name), "", "any text", std::move(description),
                        [](const std::string&) { return true; });
}

void add_core(std::vector<Setting>& table) {
  table.push_back(must_agree(integer("FUSION_THRESHOLD", &Config::fusion_threshold_bytes, 0,
                                     kFusionThresholdBytesMax, "bytes",
                                     "Bytes that one fused batch may hold. 0 turns fusion off.")));
  table.push_back(must_agree(cycle_time()));
  table.push_back(
      must_agree(integer("CACHE_CAPACITY", &Config::cache_capacity, 0, 1 << 24, "tensors",
                         "Tensors whose agreement is remembered, so that they are "
                         "negotiated by number. 0 turns the cache off.")));
  table.push_back(
      must_agree(integer("STEADY_STEPS", &Config::steady_steps, 0, 1000, "steps",
                         "After so many equal steps in a row the ranks repeat them without "
                         "negotiating, until one deviates. 0: they always negotiate.")));
  table.push_back(must_agree(
      choice("ALLREDUCE_ALGORITHM", &Config::allreduce_algorithm, allreduce_algorithm_names(),
             "Algorithm of every all-reduce (docs/algorithms.md); mpi: MPI's own collectives. Of "
             "NCCL's only ring and double_tree are chosen so, and only from NCCL 2.24 on.")));
  table.push_back(must_agree(choice(
      "MODE", &Config::mode, {"cyclic", "sharded", "hierarchical", "auto"},
      "Who selects what compressed tensors send, unless their own options say: one rank a "
      "step, or every rank for a shard; hierarchical: every rank, of what its host has on "
      "average; auto: sharded for tensors that finish earlier so than dense, the others dense "
      "(docs/algorithms.md).")));
  table.push_back(
      integer("COMPRESS_THREADS", &Config::compress_threads, 1, 256, "threads",
              "Threads that work on compressed batches of more than half a million elements, "
              "the session's own among them: cores that a rank has to itself."));
  table.push_back(must_agree(
      integer("HEALTH_STEPS", &Config::health_steps, 0, 1'000'000'000, "steps",
              "The last of every so many steps of a compressed tensor is sampled for its health "
              "(docs/howto/watch-compression.md). 0: none.")));
  table.push_back(
      free_text("HEALTH_FILE", &Config::health_file, "any path",
                "CSV file that rank 0 appends the health of compressed tensors to, a line "
                "for each sample."));
  table.push_back(
      free_text("TIMELINE", &Config::timeline, "any path, or DYNAMIC",
                "Chrome trace that rank 0 writes (docs/howto/read-a-timeline.md); every rank its "
                "own where {rank} stands in the path. DYNAMIC: when start_timeline() is called."));
  table.push_back(flag("TIMELINE_MARK_CYCLES", &Config::timeline_mark_cycles,
                       "1: the timeline has a mark for each agreement."));
  table.push_back(must_agree(choice(
      "TUNE", &Config::tune, {"off", "quick", "full"},
      "How much is measured at init to choose algorithms and blocks by, where the cache "
      "(`$XDG_CACHE_HOME/scalecom` or `~/.cache/scalecom`, rank 0's) has nothing: quick takes "
      "up to 1 s (0.35 s where the cores are idle), full up to 2 s; off: fixed defaults.")));
  table.push_back(must_agree(flag("SHARED_MEMORY", &Config::shared_memory,
                                  "0: ranks of one host exchange data as ranks of several do.")));
  table.push_back(flag("STALL_CHECK_DISABLE", &Config::stall_check_disable,
                       "1: tensors that some ranks never submit are not reported."));
  table.push_back(real("STALL_CHECK_TIME_SECONDS", &Config::stall_check_time_s, 0.01, 1e6, "s",
                       "A tensor that some ranks submitted and others did not is reported after "
                       "this time."));
  table.push_back(real("STALL_SHUTDOWN_TIME_SECONDS", &Config::stall_shutdown_time_s, 0.0, 1e6, "s",
                       "... and fails the session after this time. 0: never."));
  table.push_back(real("CONNECT_TIMEOUT", &Config::connect_timeout_s, 0.1, 86400.0, "s",
                       "Longest time for the ranks to find each other at init."));
  table.push_back(rendezvous());
  table.push_back(rendezvous_key());
  table.push_back(real("COLLECTIVE_TIMEOUT", &Config::collective_timeout_s, 0.1, 1e6, "s",
                       "Longest time one collective may take before its session fails."));
  table.push_back(real("PEER_TIMEOUT", &Config::peer_timeout_s, 1.0, 3600.0, "s",
                       "A host that stops answering on the network is given up after this time. (A "
                       "process that dies is noticed at once.)"));
  table.push_back(integer("QUEUE_CAPACITY", &Config::queue_capacity, 1, 1LL << 32, "tensors",
                          "Tensors that may be in flight; a further submit is refused."));
  table.push_back(choice("LOG_LEVEL", &Config::log_level, {kLogLevels.begin(), kLogLevels.end()},
                         "What is written to stderr."));
}

void add_cuda(std::vector<Setting>& table) {
  table.push_back(must_agree(choice(
      "CUDA_COLLECTIVES", &Config::cuda_collectives, {"auto", "nccl", "host"},
      "What carries tensors on CUDA devices: nccl; host: the host's collectives behind copies "
      "through its memory; auto: NCCL where all ranks have it and a GPU each.")));
  table.push_back(free_text("NCCL_LIBRARY", &Config::nccl_library, "any path",
                            "NCCL's library, instead of the first of these: the one that is in the "
                            "process (PyTorch brings one); for Python that of PyPI's "
                            "`nvidia-nccl-cu*`; the system's `libnccl.so.2`. Init fails if it "
                            "cannot be loaded, or the process has another one."));
}

void add_autotune(std::vector<Setting>& table) {
  constexpr std::int64_t kMany = 1'000'000;
  table.push_back(must_agree(flag(
      "AUTOTUNE", &Config::autotune,
      "1: fusion threshold and cycle time, those that are not set, are tried while the job runs, "
      "and the best is kept (docs/howto/autotune.md).")));
  table.push_back(free_text("AUTOTUNE_LOG", &Config::autotune_log, "any path",
                            "CSV file that rank 0 appends its samples to."));
  table.push_back(integer("AUTOTUNE_WARMUP_SAMPLES", &Config::autotune_warmup_samples, 0, kMany,
                          "samples", "Samples that are thrown away first."));
  table.push_back(integer("AUTOTUNE_STEPS_PER_SAMPLE", &Config::autotune_steps_per_sample, 1, kMany,
                          "steps", "A sample's figure is the median over so many steps."));
  table.push_back(integer("AUTOTUNE_BAYES_OPT_MAX_SAMPLES", &Config::autotune_bayes_opt_max_samples,
                          1, 100, "samples",
                          "Samples of the search. Six more compare its result with what the job "
                          "began with."));
  table.push_back(real("AUTOTUNE_GAUSSIAN_PROCESS_NOISE", &Config::autotune_gaussian_process_noise,
                       0.0, 1.0, "",
                       "Standard deviation of a sample's noise, for samples whose own is 1: more "
                       "where times vary much."));
}

void add_without_effect(std::vector<Setting>& table) {
  table.push_back(idle_flag("HIERARCHICAL_ALLREDUCE", "All-reduce inside hosts, then between."));
  table.push_back(idle_flag("HIERARCHICAL_ALLGATHER", "All-gather inside hosts, then between."));
  table.push_back(idle_flag("TORUS_ALLREDUCE", "All-reduce on a torus of hosts and ranks."));
  table.push_back(idle_flag("BATCH_D2D_MEMCOPIES", "One kernel for the copies of a GPU batch."));
  table.push_back(idle_number("NUM_NCCL_STREAMS", 1024, "streams", "NCCL streams of a GPU."));
  table.push_back(idle_flag("DISABLE_GROUP_FUSION", "Groups do not fuse with other tensors."));
  table.push_back(idle_flag("DYNAMIC_PROCESS_SETS", "Process sets may change after init."));
  table.push_back(idle_text("THREAD_AFFINITY", "Cores of the background threads."));
  table.push_back(idle_number("ADASUM_MPI_CHUNK_SIZE", 1e12, "bytes", "Chunk of an Adasum."));
  table.push_back(idle_flag("MPI_THREADS_DISABLE", "MPI without threads."));
}

}  // namespace

const std::vector<Setting>& settings_table() {
  static const std::vector<Setting> table = [] {
    std::vector<Setting> made;
    add_core(made);
    add_autotune(made);
    add_cuda(made);
    add_without_effect(made);
    return made;
  }();
  return table;
}

// Values go through their text, so that one rule holds for both ways in.
Config checked_config(const Config& config) {
  const Config defaults;
  Config checked = config;
  for (const Setting& setting : settings_table()) {
    const std::string value = setting.print(config);
    if (!setting.has_effect || value == setting.print(defaults)) continue;
    Config parsed = checked;
    if (!setting.parse(parsed, value)) {
      refuse_value(setting, "Config's SCALECOM_" + setting.name, value);
    }
    // Not where the text is the same: it may be rounded, or stand for what is not shown.
    if (setting.print(parsed) != value) checked = std::move(parsed);
  }
  return checked;
}

void refuse_value(const Setting& setting, const std::string& source, const std::string& value) {
  throw Error(StatusCode::invalid_argument,
              fmt::format("{}={} is not allowed; allowed: {}{}", source, value, setting.allowed,
                          setting.unit.empty() ? "" : " (" + setting.unit + ")"));
}

std::vector<std::string> settings_without_effect(const Config& config) {
  std::vector<std::string> warnings;
  for (const Setting& setting : settings_table()) {
    const auto source = config.sources.find(setting.name);
    if (setting.has_effect || source == config.sources.end()) continue;
    warnings.push_back(source->second + " is set, but has no effect in this version of scalecom");
  }
  return warnings;
}

std::string agreement_fingerprint(const Config& config) {
  std::string lines;
  for (const Setting& setting : settings_table()) {
    if (setting.must_agree) lines += setting.name + "=" + setting.print(config) + "\n";
  }
  return lines;
}

std::string describe_disagreement(const std::vector<std::string>& fingerprints) {
  // variable -> value -> ranks
  std::map<std::string, std::map<std::string, std::vector<std::size_t>>> values;
  for (std::size_t rank = 0; rank < fingerprints.size(); ++rank) {
    std::istringstream lines(fingerprints[rank]);
    for (std::string line; std::getline(lines, line);) {
      const auto equals = line.find('=');
      values[line.substr(0, equals)][line.substr(equals + 1)].push_back(rank);
    }
  }
  for (const auto& [variable, ranks_of] : values) {
    if (ranks_of.size() < 2) continue;
    std::vector<std::string> parts;
    for (const auto& [value, ranks] : ranks_of) {
      parts.push_back(fmt::format("{} on rank {}", value, fmt::join(ranks, ", ")));
    }
    return fmt::format(
        "SCALECOM_{} differs between ranks: {}; give it one value on all ranks (mpirun -x "
        "SCALECOM_{} exports it)",
        variable, fmt::join(parts, "; "), variable);
  }
  return {};
}

std::string variable_of(const Config& config, const std::string& name) {
  const auto source = config.sources.find(name);
  return source == config.sources.end() ? "SCALECOM_" + name : source->second;
}

std::string describe_cycle_time(double cycle_time_ms) {
  return cycle_time_ms < 0 ? "adaptive" : fmt::format("{:g}", cycle_time_ms);
}

LogLevel parse_log_level(const std::string& name) {
  const auto found = std::find(kLogLevels.begin(), kLogLevels.end(), name);
  SCALECOM_ASSERT(found != kLogLevels.end(), name);
  return static_cast<LogLevel>(found - kLogLevels.begin());
}

std::vector<SettingReport> describe_settings(const Config& config) {
  const Config defaults;
  std::vector<SettingReport> reports;
  for (const Setting& setting : settings_table()) {
    const auto source = config.sources.find(setting.name);
    reports.push_back({.variable = "SCALECOM_" + setting.name,
                       .value = setting.print(config),
                       .default_value = setting.print(defaults),
                       .unit = setting.unit,
                       .allowed = setting.allowed,
                       .source = source == config.sources.end() ? "default" : source->second,
                       .description = setting.description,
                       .has_effect = setting.has_effect});
  }
  return reports;
}

std::string settings_markdown() {
  std::string text =
      "# Configuration\n\n"
      "scalecom reads its settings from the environment, once, at init. `SCALECOM_X` counts; "
      "where\n"
      "it is not set, `HOROVOD_X` does. A value that is not allowed is an error that names the\n"
      "variable; `SCALECOM_X` without such a setting is a warning. `scalecom-info` shows the value "
      "and\nthe source of each.\n\n"
      "This page is generated: `scalecom-info --settings-markdown > docs/configuration.md`.\n\n"
      "| Variable | Default | Unit | Allowed | Same on all ranks | Meaning |\n"
      "|---|---|---|---|---|---|\n";
  std::string idle =
      "\n## Known from Horovod, without effect in this version\n\n"
      "Checked and accepted; a warning says at init that they do nothing.\n\n"
      "| Variable | Allowed | Meaning in Horovod |\n|---|---|---|\n";
  const Config defaults;
  for (const Setting& setting : settings_table()) {
    if (setting.has_effect) {
      text += fmt::format("| `SCALECOM_{}` | {} | {} | {} | {} | {} |\n", setting.name,
                          setting.print(defaults), setting.unit, setting.allowed,
                          setting.must_agree ? "yes" : "", setting.description);
    } else {
      idle += fmt::format("| `SCALECOM_{}` | {} | {} |\n", setting.name, setting.allowed,
                          setting.description);
    }
  }
  return text + idle;
}

}  // namespace scalecom
