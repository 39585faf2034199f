#include "runtime/timeline/timeline_writer.hpp"

#include <fmt/format.h>

#include <bit>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "runtime/start_thread.hpp"

namespace scalecom {
namespace {

// What a killed process may not have written yet.
constexpr auto kWritePeriod = std::chrono::milliseconds(100);

// Events in one write.
constexpr std::uint64_t kEventsPerWrite = 4096;

}  // namespace

TimelineWriter::TimelineWriter(const std::string& path, const std::string& origin,
                               TimelineOwner owner, std::size_t events_max)
    : file_(path, origin, owner.rank), ring_(events_max), text_(owner, start_) {
  SCALECOM_ASSERT(std::has_single_bit(events_max), std::to_string(events_max));
  thread_ = start_thread("the timeline", [this] { run(); });
}

TimelineWriter::~TimelineWriter() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (lost() == 0) return;
  log_warning(
      fmt::format("the timeline has lost {} events, which came faster than they could be "
                  "written, or of more than {} tensors",
                  lost(), kRowsMax));
}

TimelineRow TimelineWriter::add_row(const std::string& name) {
  const std::lock_guard lock(mutex_);
  new_rows_.push_back(name);
  return rows_++;
}

void TimelineWriter::push(const TimelineEvent& event) noexcept {
  const std::uint64_t pushed = pushed_.load(std::memory_order_relaxed);
  const std::uint64_t waiting = pushed - written_.load(std::memory_order_acquire);
  if (waiting == ring_.size()) return lose();
  ring_[pushed & (ring_.size() - 1)] = event;
  pushed_.store(pushed + 1, std::memory_order_release);
  // Without the lock it may be missed: the thread then comes by itself.
  if (waiting == ring_.size() / 4) wake_.notify_one();
}

void TimelineWriter::run() {
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    wake_.wait_for(lock, kWritePeriod);
    lock.unlock();
    write_news();
    lock.lock();
  }
  lock.unlock();
  write_news();
}

// A row is added before its first event is pushed, so rows are taken after the count is read.
void TimelineWriter::write_news() {
  const std::uint64_t end = pushed_.load(std::memory_order_acquire);
  take_rows();
  std::uint64_t next = written_.load(std::memory_order_relaxed);
  while (next != end) {
    const std::uint64_t stop = std::min(end, next + kEventsPerWrite);
    for (; next != stop; ++next) text_.add(ring_[next & (ring_.size() - 1)]);
    written_.store(next, std::memory_order_release);
    file_.append(text_.take());
  }
  say_lost();
  file_.append(text_.take());
}

void TimelineWriter::take_rows() {
  std::vector<std::string> rows;
  {
    const std::lock_guard lock(mutex_);
    rows.swap(new_rows_);
  }
  for (const std::string& row : rows) text_.add_row(row);
}

void TimelineWriter::say_lost() {
  const std::uint64_t all = lost();
  if (all == lost_said_) return;
  text_.add_lost(all - std::exchange(lost_said_, all), Clock::now());
}

}  // namespace scalecom
