#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace scalecom::test {

/// A timeline's file, read back. Throws where it is not JSON.
class ReadTimeline {
 public:
  explicit ReadTimeline(const std::string& path) {
    std::ifstream file(path);
    events_ = nlohmann::json::parse(file);
    for (const auto& event : events_) {
      if (event["name"] == "thread_name") rows_[event["args"]["name"]] = event["tid"];
    }
  }

  const nlohmann::json& events() const noexcept { return events_; }
  bool has_row(const std::string& tensor) const { return rows_.contains(tensor); }

  /// What the tensor's row holds of a kind ("X", "i", "C"), in the order of time, the longer first.
  std::vector<nlohmann::json> of(const std::string& tensor, const std::string& kind) const {
    std::vector<nlohmann::json> found;
    for (const auto& event : events_) {
      if (event["ph"] == kind && event["tid"] == rows_.at(tensor)) found.push_back(event);
    }
    std::ranges::stable_sort(found, [](const auto& a, const auto& b) {
      return std::pair(ns(a, "ts"), -ns(a, "dur")) < std::pair(ns(b, "ts"), -ns(b, "dur"));
    });
    return found;
  }
  std::vector<std::string> names(const std::string& tensor, const std::string& kind = "X") const {
    std::vector<std::string> names;
    for (const auto& event : of(tensor, kind)) names.push_back(event["name"]);
    return names;
  }

  /// The first two spans of a row that overlap and are not one in the other; empty: none are.
  std::string overlap() const {
    for (const auto& [tensor, row] : rows_) {
      std::vector<nlohmann::json> open;
      for (const auto& span : of(tensor, "X")) {
        while (!open.empty() && end(open.back()) <= ns(span, "ts")) open.pop_back();
        if (!open.empty() && end(open.back()) < end(span)) {
          return tensor + ": " + open.back().dump() + " and " + span.dump();
        }
        open.push_back(span);
      }
    }
    return {};
  }

 private:
  static long long ns(const nlohmann::json& event, const char* key) {
    return event.contains(key) ? std::llround(1e3 * event[key].get<double>()) : 0;
  }
  static long long end(const nlohmann::json& span) { return ns(span, "ts") + ns(span, "dur"); }

  nlohmann::json events_;
  std::map<std::string, int> rows_;
};

}  // namespace scalecom::test
