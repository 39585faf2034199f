#include "tests/support/fake_accelerator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "base/out_of_memory.hpp"
#include "kernels/pinned_pool.hpp"
#include "tests/support/fake_tables.hpp"
#include "tests/support/step_on_host.hpp"

namespace scalecom::test {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

template <class T>
MemoryUse use(const T* begin, std::int64_t count) {
  return {begin, static_cast<std::size_t>(count) * sizeof(T)};
}

MemoryUse use(const std::byte* begin, std::int64_t count, DataType dtype) {
  return {begin, static_cast<std::size_t>(count * size_of(dtype))};
}

}  // namespace

FakeAccelerator::FakeAccelerator(std::uint64_t seed, int index, Misuse on_misuse)
    : index_(index), on_misuse_(std::move(on_misuse)), streams_(seed) {}

void FakeAccelerator::require(bool is_right, const std::string& misuse) const {
  if (is_right) return;
  if (!on_misuse_) assertion_failed("proper use", misuse, std::source_location::current());
  on_misuse_(misuse);
}

void FakeAccelerator::require_working() const {
  if (has_failed_) throw Error(StatusCode::internal, "the fake device has failed");
}

void FakeAccelerator::require_entered() const {
  require_working();
  const auto found = entered_.find(std::this_thread::get_id());
  require(found != entered_.end() && found->second > 0, "a call without enter()");
}

void FakeAccelerator::require_stream(StreamHandle stream) const {
  require(streams_.is_stream(stream), "a stream that is gone, or another accelerator's");
}

void FakeAccelerator::require_event(EventHandle event) const {
  require(streams_.is_event(event), "an event that is gone, or another accelerator's");
}

std::string FakeAccelerator::bus_id() const { return fmt::format("0000:{:02x}:00.0", index_); }

std::shared_ptr<void> FakeAccelerator::enter() {
  const Lock lock(mutex_);
  require_working();
  const auto thread = std::this_thread::get_id();
  ++entered_[thread];
  return std::shared_ptr<void>(this, [this, thread](void*) {
    const Lock at_end(mutex_);
    if (--entered_[thread] == 0) entered_.erase(thread);
  });
}

std::size_t FakeAccelerator::blocks() const {
  const Lock lock(mutex_);
  return memory_.blocks();
}

std::map<std::string, int> FakeAccelerator::calls() const {
  const Lock lock(mutex_);
  return calls_;
}

void FakeAccelerator::push(StreamHandle stream, Operation operation) {
  require_entered();
  require_stream(stream);
  ++calls_[operation.name];
  if (streams_.is_stream(stream)) streams_.enqueue(stream, std::move(operation));
}

void FakeAccelerator::enqueue(StreamHandle stream, Operation operation) {
  const Lock lock(mutex_);
  push(stream, std::move(operation));
}

void FakeAccelerator::launch(StreamHandle stream, std::string name, std::vector<MemoryUse> uses,
                             std::function<void()> body) {
  enqueue(stream, {std::move(name), std::move(uses), false, [body = std::move(body)] {
                     body();
                     return true;
                   }});
}

bool FakeAccelerator::run_one() {
  return streams_.run_next([this](const Operation& operation) {
    if (has_failed_ && operation.name != "free") return true;
    for (const MemoryUse& use : operation.uses) {
      const std::string problem = memory_.problem(use, operation.allows_pinned);
      require(problem.empty(), operation.name + " uses " + problem);
      if (!problem.empty()) return true;  // It must not run.
    }
    return operation.run();
  });
}

void FakeAccelerator::advance() {
  const Lock lock(mutex_);
  for (int left = streams_.draw_operations(); left > 0; --left) run_one();
}

void FakeAccelerator::synchronize(std::chrono::seconds limit) {
  wait_for_streams([this] { return streams_.is_idle(); }, limit,
                   fmt::format("streams stand still for {} s", limit.count()));
  const Lock lock(mutex_);
  give_back_kept(kept_max_);
}

void FakeAccelerator::wait_for_streams(const std::function<bool()>& is_over,
                                       std::chrono::seconds limit, const std::string& misuse) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (true) {
    bool has_run = false;
    {
      const Lock lock(mutex_);
      if (is_over()) return;
      has_run = run_one();
    }
    if (has_run) continue;
    if (std::chrono::steady_clock::now() > end) {
      const Lock lock(mutex_);
      return require(false, misuse);
    }
    std::this_thread::yield();
  }
}

AcceleratorMemory FakeAccelerator::give_out(std::size_t bytes, MemoryKind kind) {
  require_entered();
  ++calls_["allocate"];
  if (bytes > free_) {
    if (kept_.empty()) ++calls_["refuse"];
    throw OutOfMemory(fmt::format("the fake has not {} bytes ({} are free)", bytes, free_));
  }
  free_ -= bytes;
  std::byte* const memory = memory_.allocate(bytes, kind);
  return {memory, [this](std::byte* own) { give_back(own); }};
}

void FakeAccelerator::set_free(std::size_t bytes) {
  const Lock lock(mutex_);
  free_ = bytes;
  kept_.clear();
}

std::size_t FakeAccelerator::kept() const {
  const Lock lock(mutex_);
  std::size_t bytes = 0;
  for (const Kept& piece : kept_) bytes += piece.bytes;
  return bytes;
}

bool FakeAccelerator::is_kept_limited() const {
  const Lock lock(mutex_);
  return kept_max_ < std::numeric_limits<std::size_t>::max();
}

// The smallest that is large enough, also one whose end another stream has still to come to: the
// allocation waits for it then. The rest of it stays.
bool FakeAccelerator::take_kept(std::size_t bytes) {
  Kept* best = nullptr;
  for (Kept& piece : kept_) {
    if (piece.bytes >= bytes && (best == nullptr || piece.bytes < best->bytes)) best = &piece;
  }
  if (best == nullptr) return false;
  best->bytes -= bytes;
  std::erase_if(kept_, [](const Kept& piece) { return piece.bytes == 0; });
  return true;
}

void FakeAccelerator::give_back_kept(std::size_t all_bytes) {
  const Lock lock(mutex_);
  streams_.run_first({"a wait", "free"});
  std::size_t bytes = used_ + kept();
  std::erase_if(kept_, [&](const Kept& piece) {
    if (!*piece.is_free || bytes <= all_bytes) return false;
    bytes -= piece.bytes;
    free_ += piece.bytes;
    return true;
  });
}

void FakeAccelerator::limit_kept() {
  const Lock lock(mutex_);
  require_entered();
  kept_max_ = std::max(most_used_, used_);
  most_used_ = 0;
}

AcceleratorMemory FakeAccelerator::take(std::size_t bytes) {
  const Lock lock(mutex_);
  auto memory = give_out(bytes, MemoryKind::device);
  memory_.make_ready(memory.get());
  return memory;
}

AcceleratorMemory FakeAccelerator::allocate_pinned(std::size_t bytes) {
  const Lock lock(mutex_);
  auto memory = give_out(bytes, MemoryKind::pinned);
  memory_.make_ready(memory.get());
  ++calls_["allocate_pinned"];
  return {memory.release(), [this](std::byte* own) {
            std::function<bool()> is_over;
            {
              const Lock at_end(mutex_);
              require_unused(own);
              is_over = streams_.end_of_queues();
              ++calls_[is_over() ? "free_pinned" : "free_pinned that waits"];
            }
            wait_for_streams(
                is_over, kFreeTime,
                "pinned memory is freed while the streams stand still: that never ends");
            give_back(own);
          }};
}

AcceleratorMemory FakeAccelerator::take(std::size_t bytes, MemoryOrder order) {
  const Lock lock(mutex_);
  if (take_kept(bytes)) free_ += bytes;
  auto memory = give_out(bytes, MemoryKind::device);
  most_used_ = std::max(most_used_, used_ += bytes);
  launch(order.from, "allocate", {}, [this, begin = memory.get()] { memory_.make_ready(begin); });
  return {memory.release(), [this, order](std::byte* own) { give_back(own, order.until); }};
}

void FakeAccelerator::give_back(std::byte* memory) {
  const Lock lock(mutex_);
  ++calls_["free"];
  require_unused(memory);
  free_ += memory_.bytes_of(memory);
  memory_.give_back(memory);
}

void FakeAccelerator::require_unused(const std::byte* memory) const {
  streams_.for_each_queued([&](const Operation& operation) {
    for (const MemoryUse& use : operation.uses) {
      require(!memory_.is_inside(use, memory), operation.name + " still uses memory that is freed");
    }
  });
}

void FakeAccelerator::give_back(std::byte* memory, StreamHandle stream) {
  const Lock lock(mutex_);
  require_stream(stream);
  if (!streams_.is_stream(stream)) return;
  const std::size_t bytes = memory_.bytes_of(memory);
  const auto is_free = std::make_shared<bool>(false);
  used_ -= bytes;
  if (bytes > 0) kept_.push_back({bytes, is_free});
  streams_.enqueue(stream, {"free", {}, false, [this, memory, is_free] {
                              *is_free = true;
                              const bool is_there = has_failed_ || memory_.is_ready(memory);
                              require(is_there, "memory is freed before it is allocated");
                              if (is_there) memory_.give_back(memory);
                              return true;
                            }});
}

StreamOwner FakeAccelerator::make_stream() {
  const Lock lock(mutex_);
  require_entered();
  ++calls_["make_stream"];
  return {streams_.open_stream(), [this](StreamHandle stream) {
            const Lock at_end(mutex_);
            streams_.close_stream(stream);
          }};
}

void FakeAccelerator::fail() {
  const Lock lock(mutex_);
  has_failed_ = true;
}

void FakeAccelerator::capture(StreamHandle stream) {
  const Lock lock(mutex_);
  captured_ = stream;
}

bool FakeAccelerator::is_capturing(StreamHandle stream) {
  const Lock lock(mutex_);
  require_entered();
  require_stream(stream);
  return stream == captured_;
}

EventOwner FakeAccelerator::make_event() {
  const Lock lock(mutex_);
  require_entered();
  ++calls_["make_event"];
  return {streams_.open_event(), [this](EventHandle event) {
            const Lock at_end(mutex_);
            streams_.close_event(event);
          }};
}

void FakeAccelerator::record(EventHandle event, StreamHandle stream) {
  const Lock lock(mutex_);
  require_entered();
  require_stream(stream);
  require_event(event);
  ++calls_["record"];
  streams_.record(event, stream);
}

void FakeAccelerator::make_wait(StreamHandle stream, EventHandle event) {
  const Lock lock(mutex_);
  require_entered();
  require_stream(stream);
  require_event(event);
  ++calls_["make_wait"];
  streams_.make_wait(stream, event);
}

bool FakeAccelerator::is_done(EventHandle event) {
  const Lock lock(mutex_);
  require_working();
  require_event(event);
  ++calls_["is_done"];
  advance();
  return streams_.is_done(event);
}

void FakeAccelerator::copy(void* destination, const void* source, std::size_t bytes,
                           StreamHandle stream) {
  enqueue(stream, {"copy", {{destination, bytes}, {source, bytes}}, true, [=] {
                     if (bytes > 0) std::memmove(destination, source, bytes);
                     return true;
                   }});
}

void FakeAccelerator::set_zero(void* destination, std::size_t bytes, StreamHandle stream) {
  launch(stream, "set_zero", {{destination, bytes}}, [=] {
    if (bytes > 0) std::memset(destination, 0, bytes);
  });
}

// Not with the lock held: the pool has its own, before this one.
AcceleratorMemory FakeAccelerator::table_staging(std::size_t bytes, StreamHandle stream,
                                                 PinnedPool* pinned) {
  {
    const Lock lock(mutex_);
    require_entered();
    require_stream(stream);
  }
  const std::size_t least = std::max<std::size_t>(bytes, 1);
  return pinned == nullptr ? allocate_pinned(least) : pinned->allocate(least, stream);
}

std::unique_ptr<StepTable> FakeAccelerator::make_step_table(std::size_t tensors_max,
                                                            StreamHandle stream,
                                                            PinnedPool* pinned) {
  return std::make_unique<FakeStepTable>(
      *this, tensors_max, stream, table_staging(tensors_max * sizeof(StepTensor), stream, pinned));
}

std::unique_ptr<CopyTable> FakeAccelerator::make_copy_table(std::size_t tensors_max,
                                                            StreamHandle stream,
                                                            PinnedPool* pinned) {
  return std::make_unique<FakeCopyTable>(
      *this, tensors_max, stream, table_staging(tensors_max * sizeof(CopyTensor), stream, pinned));
}

std::unique_ptr<SampleTable> FakeAccelerator::make_sample_table(std::size_t tensors_max,
                                                                std::size_t chunks_max,
                                                                StreamHandle stream,
                                                                PinnedPool* pinned) {
  return std::make_unique<FakeSampleTable>(
      *this, tensors_max, chunks_max, stream,
      table_staging(chunks_max * sizeof(SampledChunk), stream, pinned));
}

void FakeAccelerator::widen(float* values, const std::byte* source, DataType dtype,
                            std::int64_t count, StreamHandle stream) {
  launch(stream, "widen", {use(values, count), use(source, count, dtype)},
         [=] { kernels::widen(values, source, dtype, count); });
}

void FakeAccelerator::mark(std::byte* marks, DataType dtype, std::int64_t* counts,
                           std::int64_t count, StreamHandle stream) {
  launch(stream, "mark", {use(marks, count, dtype), use(counts, count)},
         [=] { mark_on_host(marks, dtype, counts, count); });
}

void FakeAccelerator::count_nonfinite(std::int64_t* found, const std::byte* values, DataType dtype,
                                      std::int64_t count, StreamHandle stream) {
  launch(stream, "count_nonfinite", {use(found, 1), use(values, count, dtype)},
         [=] { count_nonfinite_on_host(found, values, dtype, count); });
}

void FakeAccelerator::pack_offsets(std::byte* wire, std::int64_t wire_bytes,
                                   const std::uint16_t* offsets, std::int64_t count,
                                   StreamHandle stream) {
  launch(stream, "pack_offsets", {use(wire, count * wire_bytes), use(offsets, count)},
         [=] { pack_offsets_on_host(wire, wire_bytes, offsets, count); });
}

void FakeAccelerator::unpack_offsets(std::uint16_t* offsets, const std::byte* wire,
                                     std::int64_t wire_bytes, std::int64_t count,
                                     std::int64_t first, StreamHandle stream) {
  launch(stream, "unpack_offsets", {use(offsets, count), use(wire, count * wire_bytes)},
         [=] { unpack_offsets_on_host(offsets, wire, wire_bytes, count, first); });
}

}  // namespace scalecom::test
