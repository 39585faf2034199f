#include "tests/support/fake_streams.hpp"

#include <algorithm>
#include <utility>

namespace scalecom::test {

FakeStreams::FakeStreams(std::uint64_t seed) : generator_(seed) {
  streams_[nullptr] = std::make_shared<Stream>();
}

StreamHandle FakeStreams::open_stream() {
  const auto stream = reinterpret_cast<StreamHandle>(handles_ += 64);
  streams_[stream] = std::make_shared<Stream>();
  return stream;
}

void FakeStreams::close_stream(StreamHandle stream) {
  const auto node = streams_.extract(stream);
  if (!node.mapped()->queue.empty()) closed_.push_back(node.mapped());
}

EventHandle FakeStreams::open_event() {
  const auto event = reinterpret_cast<EventHandle>(handles_ += 64);
  events_[event] = {};
  return event;
}

void FakeStreams::close_event(EventHandle event) { events_.erase(event); }

void FakeStreams::enqueue(StreamHandle stream, Operation operation) {
  Stream& queue = *streams_.at(stream);
  queue.queue.push_back(std::move(operation));
  ++queue.enqueued;
}

void FakeStreams::record(EventHandle event, StreamHandle stream) {
  const std::shared_ptr<Stream>& queue = streams_.at(stream);
  events_.at(event) = {queue, queue->enqueued};
}

void FakeStreams::make_wait(StreamHandle stream, EventHandle event) {
  enqueue(stream, {"a wait", {}, true, [place = events_.at(event)] { return place.is_reached(); }});
}

bool FakeStreams::is_done(EventHandle event) const { return events_.at(event).is_reached(); }

std::vector<std::shared_ptr<FakeStreams::Stream>> FakeStreams::all() const {
  std::vector<std::shared_ptr<Stream>> streams = closed_;
  for (const auto& [handle, stream] : streams_) streams.push_back(stream);
  return streams;
}

bool FakeStreams::run_next(const std::function<bool(const Operation&)>& run) {
  auto streams = all();
  if (generator_() % 16 == 0) {
    const auto drawn = generator_() % (streams.size() + 1);
    laggard_ = drawn < streams.size() ? streams[drawn] : nullptr;
  }
  std::shuffle(streams.begin(), streams.end(), generator_);
  for (const auto& stream : streams) {
    if (stream->queue.empty() || stream == laggard_) continue;
    if (!run(stream->queue.front())) continue;
    // What it holds may free memory as it goes, which looks at the queues.
    const Operation done = std::move(stream->queue.front());
    stream->queue.pop_front();
    ++stream->done;
    std::erase_if(closed_, [](const auto& closed) { return closed->queue.empty(); });
    return true;
  }
  return false;
}

void FakeStreams::run_first(const std::set<std::string>& names) {
  for (const auto& stream : all()) {
    while (!stream->queue.empty() && names.contains(stream->queue.front().name) &&
           stream->queue.front().run()) {
      const Operation done = std::move(stream->queue.front());
      stream->queue.pop_front();
      ++stream->done;
    }
  }
}

bool FakeStreams::is_idle() const {
  const auto streams = all();
  return std::all_of(streams.begin(), streams.end(),
                     [](const auto& stream) { return stream->queue.empty(); });
}

std::function<bool()> FakeStreams::end_of_queues() const {
  std::vector<Place> places;
  for (const auto& stream : all()) places.push_back({stream, stream->enqueued});
  return [places] { return std::ranges::all_of(places, &Place::is_reached); };
}

int FakeStreams::draw_operations() {
  // Nothing, a few, or nearly all of what a batch enqueues.
  const auto most = std::uint64_t{1} << (generator_() % 6);
  return static_cast<int>(generator_() % most);
}

void FakeStreams::for_each_queued(const std::function<void(const Operation&)>& body) const {
  for (const auto& stream : all()) {
    for (const Operation& operation : stream->queue) body(operation);
  }
}

}  // namespace scalecom::test
