#include "runtime/timeline/timeline_text.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/json_line.hpp"

namespace scalecom {
namespace {

// Bytes of a row's name that are shown.
constexpr std::size_t kNameMax = 512;

constexpr std::string_view kTime = ",\"ts\":";

std::string quoted(const std::string& text) { return to_json_line(text.substr(0, kNameMax)); }

}  // namespace

TimelineText::TimelineText(TimelineOwner owner, TimePoint start)
    : start_(start), place_(fmt::format("\",\"pid\":{},\"tid\":", owner.rank)) {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  const auto unix_time = std::chrono::duration_cast<std::chrono::microseconds>(since_epoch);
  begin("process_name", 'M', 0);
  text_ += fmt::format(R"(,"args":{{"name":"scalecom rank {} of {}"}}}})", owner.rank, owner.size);
  begin("process_sort_index", 'M', 0);
  text_ += fmt::format(R"(,"args":{{"sort_index":{}}}}})", owner.rank);
  begin("timeline_start", 'M', 0);
  text_ += fmt::format(R"(,"args":{{"unix_time_us":{}}}}})", unix_time.count());
  add_row("cycles");
}

void TimelineText::begin(std::string_view name, char kind, TimelineRow row) {
  text_ += text_.empty() ? "{\"name\":\"" : ",\n{\"name\":\"";
  text_ += name;
  text_ += "\",\"ph\":\"";
  text_ += kind;
  text_ += place_;
  put_number("", row);
}

void TimelineText::put_number(std::string_view key, std::int64_t number) {
  std::array<char, 20> digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), number);
  text_ += key;
  text_.append(digits.data(), end);
}

// Microseconds, to the nanosecond.
void TimelineText::put_time(std::string_view key, Clock::duration time) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  put_number(key, ns / 1000);
  const auto rest = static_cast<int>(ns % 1000);
  const auto digit = [](int value) { return static_cast<char>('0' + value); };
  const std::array<char, 4> decimals{'.', digit(rest / 100), digit(rest / 10 % 10),
                                     digit(rest % 10)};
  text_.append(decimals.data(), decimals.size());
}

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
  put_time(kTime, event.at - start_);
  put_time(",\"dur\":", span.length);
  if (span.batch_tensors > 0) {
    put_number(",\"args\":{\"batch_tensors\":", span.batch_tensors);
    put_number(",\"batch_bytes\":", span.batch_bytes);
    if (span.step >= 0) put_number(",\"step\":", span.step);
    if (span.leader >= 0) put_number(",\"leader\":", span.leader);
    text_ += '}';
  }
  text_ += '}';
}

void TimelineText::put(const TimelineArrival& arrival, const TimelineEvent& event) {
  const bool is_one = arrival.end == arrival.first + 1;
  begin(
      is_one ? std::to_string(arrival.first) : fmt::format("{}-{}", arrival.first, arrival.end - 1),
      'i', event.row);
  put_time(kTime, event.at - start_);
  text_ += ",\"s\":\"t\"}";
}

void TimelineText::put(const TimelineCycle&, const TimelineEvent& event) {
  begin("CYCLE_START", 'i', event.row);
  put_time(kTime, event.at - start_);
  text_ += ",\"s\":\"p\"}";
}

// JSON has no infinity: what is none is left out.
void TimelineText::put(const TimelineHealth& health, const TimelineEvent& event) {
  const std::string& name = rows_[event.row];
  begin("health of " + name.substr(1, name.size() - 2), 'C', event.row);
  put_time(kTime, event.at - start_);
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
  put_time(kTime, now - start_);
  put_number(",\"s\":\"p\",\"args\":{\"events\":", static_cast<std::int64_t>(events));
  text_ += "}}";
}

std::string TimelineText::take() { return std::exchange(text_, {}); }

}  // namespace scalecom
