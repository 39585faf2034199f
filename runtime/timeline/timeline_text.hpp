#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/timeline/timeline_event.hpp"

namespace scalecom {

/// Whose timeline it is.
struct TimelineOwner {
  int rank = 0;
  int size = 1;
};

/// Events as elements of a Chrome trace (the Trace Event Format's JSON array): a process is a rank,
/// a thread a tensor's row; times are microseconds from the timeline's start. Not shared between
/// threads.
class TimelineText {
 public:
  TimelineText(TimelineOwner owner, TimePoint start);

  /// The next row's name; a long one is cut. Bytes that are not UTF-8 become U+FFFD.
  void add_row(const std::string& name);
  void add(const TimelineEvent& event);
  /// So many events could not be kept until now.
  void add_lost(std::uint64_t events, TimePoint now);

  /// What was added since the last call; empty: nothing.
  std::string take();

 private:
  void begin(std::string_view name, char kind, TimelineRow row);
  void put_number(std::string_view key, std::int64_t number);
  void put_time(std::string_view key, Clock::duration time);
  void put(const TimelineSpan& span, const TimelineEvent& event);
  void put(const TimelineArrival& arrival, const TimelineEvent& event);
  void put(const TimelineCycle& cycle, const TimelineEvent& event);
  void put(const TimelineHealth& health, const TimelineEvent& event);

  const TimePoint start_;
  const std::string place_;  ///< what every event says between its kind and its row
  /// By row, between quotes.
  std::vector<std::string> rows_;
  std::string text_;
};

}  // namespace scalecom
