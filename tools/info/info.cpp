// scalecom-info: what was built, what loads, how the ranks are connected, every setting and its
// source.

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "scalecom/c_api.h"
#include "scalecom/scalecom.hpp"

namespace {

using nlohmann::json;

json read_info() {
  char* text = nullptr;
  if (scalecom_info(&text) != 0) {
    throw scalecom::Error(scalecom::StatusCode::internal, scalecom_last_error());
  }
  json info = json::parse(text);
  scalecom_free(text);
  return info;
}

void print_row(const std::string& name, const std::string& value) {
  std::cout << "  " << std::left << std::setw(34) << name << value << "\n";
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
    print_row(setting["variable"], setting["value"].get<std::string>() +
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

int run(bool is_json) {
  if (scalecom_init() != 0) {
    std::cerr << "scalecom-info: " << scalecom_last_error() << "\n";
    return 1;
  }
  const json info = read_info();
  if (info["session"]["rank"] == 0) {
    if (is_json) {
      std::cout << info.dump(2) << "\n";
    } else {
      print_text(info);
    }
  }
  // A rank that left first would end the session of one that still reads.
  scalecom_ticket* ticket = nullptr;
  if (scalecom_barrier(&ticket) == 0) scalecom_ticket_wait(ticket, -1.0);
  scalecom_ticket_release(ticket);
  scalecom_shutdown();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Shows what this scalecom was built with, what it finds here, and its settings"};
  bool is_json = false;
  bool is_markdown = false;
  app.add_flag("--json", is_json, "Print JSON");
  app.add_flag("--settings-markdown", is_markdown, "Print docs/configuration.md");
  CLI11_PARSE(app, argc, argv);
  if (is_markdown) {
    std::cout << scalecom::settings_markdown();
    return 0;
  }
  try {
    return run(is_json);
  } catch (const std::exception& error) {
    std::cerr << "scalecom-info: " << error.what() << "\n";
    return 1;
  }
}
