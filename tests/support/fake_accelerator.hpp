#pragma once

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/accelerator.hpp"
#include "tests/support/fake_memory.hpp"
#include "tests/support/fake_streams.hpp"

namespace scalecom::test {

/// An accelerator in host memory, which uses a device's freedom against its users: nothing happens
/// in a call that enqueues; each is_done() and advance() first runs a few operations, or none, of
/// streams drawn from a seed. So a forgotten wait shows as a wrong result, for some seed.
///
/// What would be undefined on a device is *misuse*: an operation on memory that the accelerator has
/// not given out, or not yet, or no more; pinned memory in a kernel; freeing memory that is not yet
/// given out, or that queued operations use; freeing pinned memory, which waits for all that is
/// enqueued as CUDA does, while that stands still; assign() to a table in use; a call without
/// enter(); handles that are gone. It ends the process, or goes to the test's own function, which
/// is called with the lock held.
class FakeAccelerator final : public Accelerator {
 public:
  using Misuse = std::function<void(const std::string&)>;
  /// What a free of pinned memory waits for the streams before it is misuse.
  static constexpr std::chrono::seconds kFreeTime{20};
  explicit FakeAccelerator(std::uint64_t seed, int index = 0, Misuse on_misuse = {});

  /// An operation of the test's own, in the stream's order. It returns whether it is done, and is
  /// called again until then; with the accelerator's lock held, so it must not call it.
  void enqueue(StreamHandle stream, Operation operation);
  /// Runs operations as is_done() does.
  void advance();
  /// Runs all that is enqueued. Misuse if that takes longer than `limit`.
  void synchronize(std::chrono::seconds limit = std::chrono::seconds(60));
  /// From now on there are so many bytes, pinned ones among them, and what is given back. Of that
  /// what was in order is kept, in its pieces, for what will be; as CUDA's pools do it.
  void set_free(std::size_t bytes);
  /// Bytes that are kept and not used.
  std::size_t kept() const;
  /// Whether limit_kept() was called.
  bool is_kept_limited() const;
  /// As a device that has failed, from now on: every call that may throw does, and what is enqueued
  /// ends without having touched any memory.
  void fail();
  /// From now on `stream` is being captured; null: none is.
  void capture(StreamHandle stream);
  /// How much memory is given out, in pieces.
  std::size_t blocks() const;
  /// Calls so far: operations by their names, and those of Accelerator that enqueue none.
  std::map<std::string, int> calls() const;

  int index() const noexcept override { return index_; }
  std::string description() const override { return "a fake accelerator"; }
  std::string bus_id() const override;
  std::shared_ptr<void> enter() override;
  void limit_kept() override;
  AcceleratorMemory allocate_pinned(std::size_t bytes) override;
  StreamOwner make_stream() override;
  bool is_capturing(StreamHandle stream) override;
  EventOwner make_event() override;
  void record(EventHandle event, StreamHandle stream) override;
  void make_wait(StreamHandle stream, EventHandle event) override;
  bool is_done(EventHandle event) override;
  void copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream) override;
  void set_zero(void* destination, std::size_t bytes, StreamHandle stream) override;
  std::unique_ptr<StepTable> make_step_table(std::size_t tensors_max, StreamHandle stream,
                                             PinnedPool* pinned = nullptr) override;
  std::unique_ptr<CopyTable> make_copy_table(std::size_t tensors_max, StreamHandle stream,
                                             PinnedPool* pinned = nullptr) override;
  std::unique_ptr<SampleTable> make_sample_table(std::size_t tensors_max, std::size_t chunks_max,
                                                 StreamHandle stream,
                                                 PinnedPool* pinned = nullptr) override;
  void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
             StreamHandle stream) override;
  void mark(std::byte* marks, DataType dtype, std::int64_t* counts, std::int64_t count,
            StreamHandle stream) override;
  void count_nonfinite(std::int64_t* found, const std::byte* values, DataType dtype,
                       std::int64_t count, StreamHandle stream) override;
  void pack_offsets(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                    std::int64_t count, StreamHandle stream) override;
  void unpack_offsets(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                      std::int64_t count, std::int64_t first, StreamHandle stream) override;

  /// For the tables: tells of misuse unless `is_right`.
  void require(bool is_right, const std::string& misuse) const;

 private:
  /// Enqueues a kernel, or what else always does its work at once.
  void launch(StreamHandle stream, std::string name, std::vector<MemoryUse> uses,
              std::function<void()> body);
  void push(StreamHandle stream, Operation operation);
  AcceleratorMemory take(std::size_t bytes) override;
  AcceleratorMemory take(std::size_t bytes, MemoryOrder order) override;
  bool take_kept(std::size_t bytes);
  void give_back_kept() override { give_back_kept(0); }
  void give_back_kept(std::size_t all_bytes);
  AcceleratorMemory give_out(std::size_t bytes, MemoryKind kind);
  AcceleratorMemory table_staging(std::size_t bytes, StreamHandle stream, PinnedPool* pinned);
  void give_back(std::byte* memory);
  void wait_for_streams(const std::function<bool()>& is_over, std::chrono::seconds limit,
                        const std::string& misuse);
  void give_back(std::byte* memory, StreamHandle stream);
  bool run_one();
  void require_unused(const std::byte* memory) const;
  void require_entered() const;
  void require_working() const;
  void require_stream(StreamHandle stream) const;
  void require_event(EventHandle event) const;

  const int index_;
  const Misuse on_misuse_;
  mutable std::recursive_mutex mutex_;
  std::size_t free_ = std::numeric_limits<std::size_t>::max();
  struct Kept {
    std::size_t bytes = 0;
    std::shared_ptr<const bool> is_free;  ///< the stream has come to its end
  };
  std::vector<Kept> kept_;
  std::size_t used_ = 0;  ///< bytes in order
  std::size_t most_used_ = 0;
  std::size_t kept_max_ = std::numeric_limits<std::size_t>::max();  ///< with what is used
  StreamHandle captured_ = nullptr;
  bool has_failed_ = false;
  FakeMemory memory_;
  FakeStreams streams_;
  std::map<std::thread::id, int> entered_;
  std::map<std::string, int> calls_;
};

}  // namespace scalecom::test
