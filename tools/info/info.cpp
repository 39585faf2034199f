// scalecom-info: what was built, what loads, how the ranks are connected, every setting and its
// source.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scalecom/c_api.h"
#include "scalecom/scalecom.hpp"
#include "tools/allowed.hpp"

namespace {

using nlohmann::json;

/// Tensors whose compression is to be explained.
struct PlanOptions {
  std::vector<std::int64_t> counts;
  std::int64_t rate = 100;
  /// What SCALECOM_MODE says where that is set, else auto.
  std::optional<scalecom::CompressionMode> mode;
};

struct Options {
  /// Config::nccl_offered.
  std::string nccl;
  bool is_json = false;
  bool is_markdown = false;
  PlanOptions plan;
};

// What a call of the C interface hands out.
json take(int code, char* text) {
  if (code != 0) {
    throw scalecom::Error(static_cast<scalecom::StatusCode>(code), scalecom_last_error());
  }
  json object = json::parse(text);
  scalecom_free(text);
  return object;
}

json read_info() {
  char* text = nullptr;
  const int code = scalecom_info(&text);
  return take(code, text);
}

// Wider than every setting's name.
constexpr int kNameWidth = 42;

void print_row(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(kNameWidth) << name << value << "\n";
}

void print_section(const std::string& title, const json& object) {
  std::cout << title << "\n";
  for (const auto& [name, value] : object.items()) {
    print_row(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

void print_settings(const json& settings) {
  std::cout << "settings (value, unit, source)\n";
  for (const json& setting : settings) {
    if (!setting["has_effect"].get<bool>() && setting["source"] == "default") continue;
    const std::string unit = setting["unit"];
    const std::string value = setting["value"];
    print_row(setting["variable"], (value.empty() ? "not set" : value) +
                                       (unit.empty() ? "" : " " + unit) + "  [" +
                                       setting["source"].get<std::string>() + "]");
  }
}

void print_text(const json& info) {
  std::cout << "scalecom " << info["version"].get<std::string>() << "\n";
  print_section("built with", info["build"]);
  print_section("loads here", info["loads"]);
  print_row("instruction set", info["simd_target"]);
  print_section("session", info["session"]);
  print_settings(info["settings"]);
}

scalecom::CompressionMode mode_of(const PlanOptions& plan, const json& info) {
  if (plan.mode) return *plan.mode;
  const bool is_set = std::ranges::any_of(info["settings"], [](const json& setting) {
    return setting["variable"] == "SCALECOM_MODE" && setting["source"] != "default";
  });
  return is_set ? scalecom::CompressionMode::by_setting : scalecom::CompressionMode::automatic;
}

json explain(std::int64_t count, const PlanOptions& plan, scalecom::CompressionMode mode) {
  const scalecom_compression compression{static_cast<std::int32_t>(mode),
                                         plan.rate,
                                         1.0,
                                         0,
                                         static_cast<std::int32_t>(scalecom::DataType::float32),
                                         0.0,
                                         0};
  char* text = nullptr;
  const auto dtype = static_cast<std::int32_t>(scalecom::DataType::float32);
  const auto device = static_cast<std::int32_t>(scalecom::DeviceKind::host);
  const int code = scalecom_explain_compression(count, dtype, device, &compression, &text);
  return take(code, text);
}

void print_plan(const json& plan, const json& info) {
  const json& session = info["session"];
  const int ranks = session["size"].get<int>();
  std::printf("# float32 tensors in the host's memory, %d rank%s; figures: %s\n", ranks,
              ranks == 1 ? "" : "s", session["tuning_source"].get<std::string>().c_str());
  // A mode that was not asked for is not among the alternatives: cyclic, then hierarchical or
  // sharded.
  const auto third = plan.front()["alternatives"][2]["mode"].get<std::string>() + " us";
  std::printf("%12s  %-12s  %6s  %10s  %10s  %15s  %12s  %12s  %s\n", "elements", "chosen", "rate",
              "dense us", "cyclic us", third.c_str(), "dense bytes", "bytes sent", "why");
  for (const json& row : plan) {
    const json& ways = row["alternatives"];
    double sent = 0.0;
    for (const json& way : ways) {
      if (way["is_chosen"].get<bool>()) sent = way["bytes_sent"].get<double>();
    }
    std::printf("%12lld  %-12s  %6lld  %10.1f  %10.1f  %15.1f  %12.0f  %12.0f  %s\n",
                static_cast<long long>(row["count"].get<std::int64_t>()),
                row["mode"].get<std::string>().c_str(),
                static_cast<long long>(row["rate"].get<std::int64_t>()),
                ways[0]["time_us"].get<double>(), ways[1]["time_us"].get<double>(),
                ways[2]["time_us"].get<double>(), ways[0]["bytes_sent"].get<double>(), sent,
                row["reason"].get<std::string>().c_str());
  }
}

void show(const json& info, const Options& options) {
  if (!options.plan.counts.empty()) {
    json plan = json::array();
    const scalecom::CompressionMode mode = mode_of(options.plan, info);
    for (const std::int64_t count : options.plan.counts) {
      plan.push_back(explain(count, options.plan, mode));
    }
    if (options.is_json) {
      std::cout << plan.dump(2) << "\n";
    } else {
      print_plan(plan, info);
    }
  } else if (options.is_json) {
    std::cout << info.dump(2) << "\n";
  } else {
    print_text(info);
  }
}

int run(const Options& options) {
  if (scalecom_offer_nccl(options.nccl.c_str()) != 0 || scalecom_init() != 0) {
    std::cerr << "scalecom-info: " << scalecom_last_error() << "\n";
    return 1;
  }
  const json info = read_info();
  if (info["session"]["rank"] == 0) show(info, options);
  // A rank that left first would end the session of one that still reads.
  scalecom_ticket* ticket = nullptr;
  if (scalecom_barrier(&ticket) == 0) scalecom_ticket_wait(ticket, -1.0);
  scalecom_ticket_release(ticket);
  scalecom_shutdown();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  using scalecom::CompressionMode;
  CLI::App app{"Shows what this scalecom was built with, what it finds here, and its settings"};
  Options options;
  app.add_flag("--json", options.is_json, "Print JSON");
  app.add_option("--offer-nccl", options.nccl,
                 "NCCL's library to look at before the system's; Python's installation brings it");
  app.add_flag("--settings-markdown", options.is_markdown, "Print docs/configuration.md");
  const CLI::Validator is_count(
      [](std::string& text) {
        constexpr std::size_t kDigitsMax = 18;
        const bool is_number = !text.empty() && text.size() <= kDigitsMax &&
                               text.find_first_not_of("0123456789") == std::string::npos;
        return is_number
                   ? std::string()
                   : "'" + text + "' is no number of elements; allowed are whole numbers of " +
                         "0 or more, with commas between them";
      },
      "COUNT");
  app.add_option("--plan", options.plan.counts,
                 "Elements of float32 tensors, comma-separated: explains for each whether it is "
                 "compressed on these ranks, and why")
      ->delimiter(',')
      ->check(is_count);
  app.add_option("--rate", options.plan.rate, "Of the plan")
      ->check(CLI::Range(1, 65'536))
      ->needs("--plan")
      ->capture_default_str();
  const std::map<std::string, CompressionMode> modes{
      {"auto", CompressionMode::automatic},
      {"cyclic", CompressionMode::cyclic},
      {"sharded", CompressionMode::sharded},
      {"hierarchical", CompressionMode::hierarchical}};
  app.add_option("--mode", options.plan.mode,
                 "Of the plan: auto, cyclic, sharded or hierarchical; by default as SCALECOM_MODE "
                 "says, auto where it is not set")
      ->transform(scalecom::tools::one_of(modes))
      ->needs("--plan");
  CLI11_PARSE(app, argc, argv);
  if (options.is_markdown) {
    std::cout << scalecom::settings_markdown();
    return 0;
  }
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "scalecom-info: " << error.what() << "\n";
    return 1;
  }
}
