#include "runtime/timeline/timeline_text.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

namespace scalecom {
namespace {

// Bytes of a row's name that are shown.
constexpr std::size_t kNameMax = 512;

std::string quoted(const std::string& text) {
  constexpr int kOneLine = -1;
  return nlohmann::json(text.substr(0, kNameMax))
      .dump(kOneLine, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Microseconds, to the nanosecond.
std::string microseconds(Clock::duration time) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  return fmt::format("{}.{:03}", ns / 1000, ns % 1000);
}

}  // namespace

TimelineText::TimelineText(TimelineOwner owner, TimePoint start) : owner_(owner), start_(start) {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  begin("process_name", 'M', 0);
  fmt::format_to(std::back_inserter(text_), R"(,"args":{{"name":"scalecom rank {} of {}"}}}})",
                 owner.rank, owner.size);
  begin("process_sort_index", 'M', 0);
  fmt::format_to(std::back_inserter(text_), R"(,"args":{{"sort_index":{}}}}})", owner.rank);
  begin("timeline_start", 'M', 0);
  fmt::format_to(std::back_inserter(text_), R"(,"args":{{"unix_time_us":{}}}}})",
                 std::chrono::duration_cast<std::chrono::microseconds>(since_epoch).count());
  add_row("cycles");
}

void TimelineText::begin(const char* name, char kind, TimelineRow row) {
  fmt::format_to(std::back_inserter(text_), R"({}{{"name":"{}","ph":"{}","pid":{},"tid":{})",
                 text_.empty() ? "" : ",\n", name, kind, owner_.rank, row);
}

void TimelineText::put_time(TimePoint at) { text_ += ",\"ts\":" + microseconds(at - start_); }

void TimelineText::add_row(const std::string& name) {
  begin("thread_name", 'M', static_cast<TimelineRow>(rows_.size()));
  rows_.push_back(quoted(name));
  text_ += ",\"args\":{\"name\":" + rows_.back() + "}}";
}

void TimelineText::add(const TimelineEvent& event) {
  std::visit([&](const auto& what) { put(what, event); }, event.what);
}

void TimelineText::put(const TimelineSpan& span, const TimelineEvent& event) {
  begin(span.name, 'X', event.row);
  put_time(event.at);
  text_ += ",\"dur\":" + microseconds(span.length);
  if (span.batch_tensors > 0) {
    fmt::format_to(std::back_inserter(text_), R"(,"args":{{"batch_tensors":{},"batch_bytes":{})",
                   span.batch_tensors, span.batch_bytes);
    if (span.step >= 0) text_ += fmt::format(",\"step\":{}", span.step);
    if (span.leader >= 0) text_ += fmt::format(",\"leader\":{}", span.leader);
    text_ += '}';
  }
  text_ += '}';
}

void TimelineText::put(const TimelineArrival& arrival, const TimelineEvent& event) {
  const bool is_one = arrival.end == arrival.first + 1;
  const std::string ranks =
      is_one ? std::to_string(arrival.first) : fmt::format("{}-{}", arrival.first, arrival.end - 1);
  begin(ranks.c_str(), 'i', event.row);
  put_time(event.at);
  text_ += ",\"s\":\"t\"}";
}

void TimelineText::put(const TimelineCycle&, const TimelineEvent& event) {
  begin("CYCLE_START", 'i', event.row);
  put_time(event.at);
  text_ += ",\"s\":\"p\"}";
}

// JSON has no infinity: what is none is left out.
void TimelineText::put(const TimelineHealth& health, const TimelineEvent& event) {
  const std::string name = "health of " + rows_[event.row].substr(1, rows_[event.row].size() - 2);
  begin(name.c_str(), 'C', event.row);
  put_time(event.at);
  text_ += ",\"args\":{";
  const char* separator = "";
  for (const auto& [figure, value] :
       {std::pair{"relative_error", health.relative_error},
        std::pair{"residual_to_gradient", health.residual_to_gradient},
        std::pair{"hamming_distance", health.hamming_distance},
        std::pair{"chunk_overlap", health.chunk_overlap}}) {
    if (!std::isfinite(value)) continue;
    text_ += fmt::format("{}\"{}\":{:.6g}", separator, figure, value);
    separator = ",";
  }
  text_ += "}}";
}

void TimelineText::add_lost(std::uint64_t events, TimePoint now) {
  begin("LOST_EVENTS", 'i', 0);
  put_time(now);
  text_ += fmt::format(",\"s\":\"p\",\"args\":{{\"events\":{}}}}}", events);
}

std::string TimelineText::take() { return std::exchange(text_, {}); }

}  // namespace scalecom
