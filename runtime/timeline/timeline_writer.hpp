#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/timeline/timeline_event.hpp"
#include "runtime/timeline/timeline_file.hpp"
#include "runtime/timeline/timeline_text.hpp"

namespace scalecom {

/// Takes events from one thread at a time and has a thread of its own write them to the file. Who
/// gives them never waits for a disk: what finds the ring full is lost, counted, and said in the
/// file and the log.
class TimelineWriter {
 public:
  /// Tensors that have rows, at most.
  static constexpr std::size_t kRowsMax = 16384;
  /// Events that wait to be written, at most: 10 MB. A power of two.
  static constexpr std::size_t kEventsMax = std::size_t{1} << 17;

  /// Throws what TimelineFile throws.
  TimelineWriter(const std::string& path, const std::string& origin, TimelineOwner owner,
                 std::size_t events_max = kEventsMax);
  /// Writes what is left.
  ~TimelineWriter();
  TimelineWriter(const TimelineWriter&) = delete;
  TimelineWriter& operator=(const TimelineWriter&) = delete;

  TimePoint start() const noexcept { return start_; }

  // By the thread that gives events

  /// The next row, before its events.
  TimelineRow add_row(const std::string& name);
  void push(const TimelineEvent& event) noexcept;
  /// One event less than there could be.
  void lose() noexcept { lost_.fetch_add(1, std::memory_order_relaxed); }

  std::uint64_t lost() const noexcept { return lost_.load(std::memory_order_relaxed); }

 private:
  void run();
  void write_news();
  void take_rows();
  void say_lost();

  const TimePoint start_ = Clock::now();
  TimelineFile file_;
  std::vector<TimelineEvent> ring_;
  std::atomic<std::uint64_t> pushed_{0};
  std::atomic<std::uint64_t> written_{0};
  std::atomic<std::uint64_t> lost_{0};
  TimelineRow rows_ = 1;

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::vector<std::string> new_rows_;
  bool is_ending_ = false;

  // Of the writing thread.
  TimelineText text_;
  std::uint64_t lost_said_ = 0;
  std::thread thread_;
};

}  // namespace scalecom
