#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/accelerator.hpp"
#include "tests/support/fake_memory.hpp"

namespace scalecom::test {

/// What a stream does when it has come to it.
struct Operation {
  std::string name;
  std::vector<MemoryUse> uses;
  bool allows_pinned = false;
  /// True: done. False: it is called again later, and what is behind it waits.
  std::function<bool()> run;
};

/// Streams and events of a fake accelerator. Operations run in the calls of run_next() only, those
/// of one stream in order, and which stream is next is drawn from a seed.
class FakeStreams {
 public:
  explicit FakeStreams(std::uint64_t seed);

  StreamHandle open_stream();
  /// What is queued is still done.
  void close_stream(StreamHandle stream);
  EventHandle open_event();
  void close_event(EventHandle event);
  bool is_stream(StreamHandle stream) const { return streams_.contains(stream); }
  bool is_event(EventHandle event) const { return events_.contains(event); }

  void enqueue(StreamHandle stream, Operation operation);
  void record(EventHandle event, StreamHandle stream);
  void make_wait(StreamHandle stream, EventHandle event);
  bool is_done(EventHandle event) const;

  /// Gives the first operations of streams, drawn one after the other, to `run` until it returns
  /// true: that one is done. False: none was.
  bool run_next(const std::function<bool(const Operation&)>& run);
  /// Does what is first in its stream and of these names, and done.
  void run_first(const std::set<std::string>& names);
  bool is_idle() const;
  /// Whether all is done that is enqueued when this is called.
  std::function<bool()> end_of_queues() const;
  /// How many operations are to run before the next question is answered: often none.
  int draw_operations();
  void for_each_queued(const std::function<void(const Operation&)>& body) const;

 private:
  struct Stream {
    std::deque<Operation> queue;
    std::uint64_t enqueued = 0;
    std::uint64_t done = 0;
  };
  /// Behind the first `count` operations of a stream.
  struct Place {
    std::shared_ptr<const Stream> stream;
    std::uint64_t count = 0;
    bool is_reached() const { return stream == nullptr || stream->done >= count; }
  };

  std::mt19937_64 generator_;
  std::uintptr_t handles_ = 0;
  std::map<StreamHandle, std::shared_ptr<Stream>> streams_;
  std::vector<std::shared_ptr<Stream>> closed_;  ///< with operations left
  std::map<EventHandle, Place> events_;
  std::shared_ptr<const Stream> laggard_;  ///< does nothing until another draw

  std::vector<std::shared_ptr<Stream>> all() const;
};

}  // namespace scalecom::test
