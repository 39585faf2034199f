#pragma once

#include <cstddef>
#include <memory>

// CUDA's own names behind cudaStream_t and cudaEvent_t.
struct CUstream_st;
struct CUevent_st;

namespace scalecom::device::cuda {

/// A borrowed stream: a cudaStream_t. Null is the default stream.
using StreamHandle = CUstream_st*;
/// A borrowed event: a cudaEvent_t.
using EventHandle = CUevent_st*;

struct DestroyStream {
  void operator()(CUstream_st* stream) const noexcept;
};
struct DestroyEvent {
  void operator()(CUevent_st* event) const noexcept;
};

/// A stream of its own order: it does not wait for the default stream.
class Stream {
 public:
  Stream();
  StreamHandle handle() const noexcept { return stream_.get(); }
  /// Gives it up: for DestroyStream.
  StreamHandle release() noexcept { return stream_.release(); }
  /// Blocks until all of it is done. Not for the coordinator's thread.
  void synchronize() const;

 private:
  std::unique_ptr<CUstream_st, DestroyStream> stream_;
};

/// A place in a stream.
class Event {
 public:
  /// `timed` events cost more, and are what milliseconds_since() needs.
  enum class Kind { ordering, timed };
  explicit Event(Kind kind = Kind::ordering);

  EventHandle handle() const noexcept { return event_.get(); }
  /// Gives it up: for DestroyEvent.
  EventHandle release() noexcept { return event_.release(); }
  double milliseconds_since(const Event& begin) const;

 private:
  std::unique_ptr<CUevent_st, DestroyEvent> event_;
};

/// While it lasts, the calling thread may do what a capture of a CUDA graph, of another thread's
/// too, forbids by default, and which would end that capture: to ask for events, to allocate, to
/// free. Nothing of ours is part of such a graph.
class BesideCaptures {
 public:
  BesideCaptures() noexcept;
  ~BesideCaptures();
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  int former_ = 0;  ///< a cudaStreamCaptureMode
};

/// Whether the stream is being captured: what is enqueued does not run, but is part of a graph.
bool is_capturing(StreamHandle stream);

void record(EventHandle event, StreamHandle stream);
/// What is launched on `stream` from now on waits for the event; the host does not.
void make_wait(StreamHandle stream, EventHandle event);
bool is_done(EventHandle event);

/// Copies between device and host in the stream's order; host memory is pinned, or the call may
/// block.
void copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream);
void set_bytes(void* destination, int value, std::size_t bytes, StreamHandle stream);

/// Multiprocessors of the current device.
int multiprocessors();

}  // namespace scalecom::device::cuda
