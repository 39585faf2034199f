#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/reduce.hpp"
#include "kernels/select.hpp"

// CUDA's own names behind cudaStream_t and cudaEvent_t.
struct CUstream_st;
struct CUevent_st;

/// One accelerator (a GPU) as the runtime uses it: memory, streams, events, and the kernels of
/// kernels/select.hpp and kernels/reduce.hpp for tables of tensors. Everything is enqueued on a
/// stream and nothing waits for the device. CUDA implements it (kernels/cuda), and in tests a
/// device whose streams advance by a seed.
namespace scalecom {

/// A borrowed stream: a cudaStream_t. Null is the default stream.
using StreamHandle = CUstream_st*;
using EventHandle = CUevent_st*;

class PinnedPool;

/// Memory's time, by places in streams. The end comes behind the begin and all uses: by waits,
/// where the streams are two.
struct MemoryOrder {
  StreamHandle from = nullptr;   ///< what is enqueued there from now on may use it
  StreamHandle until = nullptr;  ///< what is enqueued there before it is given back may, too
};

/// Owners of what an accelerator has given out. It outlives them.
template <class T>
using Owned = std::unique_ptr<T, std::function<void(T*)>>;
using AcceleratorMemory = Owned<std::byte>;
using StreamOwner = Owned<CUstream_st>;
using EventOwner = Owned<CUevent_st>;

/// One tensor, or consecutive chunks of one, and what its step writes. All pointers are memory of
/// the accelerator, aligned to their elements; what a pass does not use may be null.
struct StepTensor {
  float* residual = nullptr;
  kernels::Gradient gradient;
  float beta = 1.0f;
  std::int64_t chunk = 1;
  std::uint16_t* offsets = nullptr;
  kernels::Selected selected;  ///< `values` is aligned to its dtype
  /// The sweeps add the number of elements with p not finite. Several may share one.
  std::int64_t* nonfinite = nullptr;
  /// Result and reduced values of fill_selected(): `result` has gradient.count elements of
  /// gradient.dtype, and may be the gradient.
  std::byte* result = nullptr;
  const float* reduced = nullptr;
  /// Not zero: some rank saw NaN or Inf. Then fill_selected() takes the step back, if there is
  /// `residual`, and fills the whole result with NaN; and only then take_back() does anything.
  /// Null: as if it were zero to the one, and as if it were not to the other.
  const float* mark = nullptr;

  friend bool operator==(const StepTensor&, const StepTensor&) = default;
};

/// Asserts what every StepTable demands: alignment, and a chunk length and dtypes that passes have.
void check(const StepTensor& tensor);

/// Places of a table's tensors: from `begin` up to `end`.
struct TensorRange {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// The tensors of a batch on the accelerator, for all passes of a step. Empty tensors are allowed.
class StepTable {
 public:
  virtual ~StepTable() = default;

  /// Replaces the tensors; the copy to the accelerator is enqueued on `stream`. All that was
  /// enqueued with the former ones must be done.
  virtual void assign(std::span<const StepTensor> tensors, StreamHandle stream) = 0;

  /// Of the tensors of `led`, and of all others: who leads which is no part of the table.
  virtual void select_and_sweep(StreamHandle stream, TensorRange led) const = 0;
  virtual void gather_and_sweep(StreamHandle stream, TensorRange led) const = 0;
  /// Of all tensors.
  void select_and_sweep(StreamHandle stream) const {
    select_and_sweep(stream, {0, std::numeric_limits<std::size_t>::max()});
  }
  void gather_and_sweep(StreamHandle stream) const { gather_and_sweep(stream, {}); }
  /// restore_selected() and undo_sweep(), where no fill_selected() does that.
  virtual void take_back(StreamHandle stream) const = 0;
  virtual void fill_selected(StreamHandle stream) const = 0;
};

/// One chunk of a tensor that was swept, by its first element.
struct SampledChunk {
  const float* residual = nullptr;
  const std::byte* gradient = nullptr;
  const std::uint16_t* offset = nullptr;  ///< of its selected element
  const float* kept = nullptr;
};

/// Sampled chunks of one tensor, and what a look at them writes. All pointers are memory of the
/// accelerator, aligned to their elements.
struct SampledTensor {
  DataType dtype = DataType::float32;  ///< of the gradient
  float prescale = 1.0f;
  float beta = 1.0f;
  std::int64_t chunk = 1;     ///< elements of each chunk but the last, which may be short
  std::int64_t elements = 0;  ///< of all, at least 1
  std::span<const SampledChunk> chunks;  ///< the host's, for assign()
  /// p of the elements, then two figures: ||p - sent|| / ||p|| (0 where p is 0) and ||m|| / ||g||
  /// (0 where both are 0, infinite where g alone is). Sums are in float64, in any order.
  float* compensated = nullptr;
  float* figures = nullptr;          ///< the two once more
  std::uint16_t* offsets = nullptr;  ///< of the chunks
};

/// Asserts what every SampleTable demands: chunks that hold the elements.
void check(const SampledTensor& tensor);

/// The tensors of a batch whose turn it is to be sampled.
class SampleTable {
 public:
  virtual ~SampleTable() = default;

  /// As StepTable::assign().
  virtual void assign(std::span<const SampledTensor> tensors, StreamHandle stream) = 0;
  /// Behind both sweeps, and before take_back() and fill_selected().
  virtual void look(StreamHandle stream) const = 0;
};

/// destination[i] = source[i] * scale, as kernels::scale_copy(), of any dtype, aligned to its
/// elements; the same memory is allowed.
struct CopyTensor {
  std::byte* destination = nullptr;
  const std::byte* source = nullptr;
  std::int64_t count = 0;
  DataType dtype = DataType::float32;
  kernels::Scale scale;

  friend bool operator==(const CopyTensor&, const CopyTensor&) = default;
};

/// Asserts what every CopyTable demands: alignment, and no scaled booleans.
void check(const CopyTensor& tensor);

/// The tensors of a batch and their places in a fused buffer: packed or unpacked at once.
class CopyTable {
 public:
  virtual ~CopyTable() = default;

  /// As StepTable::assign().
  virtual void assign(std::span<const CopyTensor> tensors, StreamHandle stream) = 0;
  virtual void scale_copy(StreamHandle stream) const = 0;
};

/// Errors are thrown (Error: unavailable, with CUDA's name and the remedy that is known). Every
/// method may be called from any thread; tables belong to one thread at a time.
class Accelerator {
 public:
  virtual ~Accelerator() = default;

  /// Which one, as CUDA counts them.
  virtual int index() const noexcept = 0;
  /// "NVIDIA H100 80GB HBM3 (compute capability 9.0)".
  virtual std::string description() const = 0;
  /// Names the physical device among those of its host: two ranks with one share a GPU.
  virtual std::string bus_id() const = 0;

  /// Makes it the calling thread's current device until what is returned goes: around all calls
  /// below but is_done().
  [[nodiscard]] virtual std::shared_ptr<void> enter() = 0;

  /// Where there is not that much, the device gets back first what is kept of memory that was in
  /// order, and is not used. Throw OutOfMemory where that does not help.
  AcceleratorMemory allocate(std::size_t bytes);
  AcceleratorMemory allocate(std::size_t bytes, MemoryOrder order);
  /// From here on no more is kept, used and unused, than was used at once since the last call, and
  /// a little; the rest goes when somebody in the process next waits for the device (CUDA's
  /// synchronize calls). Without a call all is kept.
  virtual void limit_kept() = 0;
  /// Host memory that it copies from and to by itself.
  virtual AcceleratorMemory allocate_pinned(std::size_t bytes) = 0;

  virtual StreamOwner make_stream() = 0;
  /// Whether what is enqueued on `stream` becomes part of a graph that its owner captures, and does
  /// not run.
  virtual bool is_capturing(StreamHandle stream) = 0;
  virtual EventOwner make_event() = 0;
  virtual void record(EventHandle event, StreamHandle stream) = 0;
  /// What is enqueued on `stream` from now on waits for the event; an event that was never recorded
  /// is done.
  virtual void make_wait(StreamHandle stream, EventHandle event) = 0;
  virtual bool is_done(EventHandle event) = 0;

  /// Between any of its memory and pinned host memory.
  virtual void copy(void* destination, const void* source, std::size_t bytes,
                    StreamHandle stream) = 0;
  virtual void set_zero(void* destination, std::size_t bytes, StreamHandle stream) = 0;

  /// A table's memory is in the order of `stream`, which outlives it: what uses it comes behind
  /// what is enqueued there so far, and the table's end behind all of it. It is written in host
  /// memory of `pinned`, which outlives it; null: in its own, whose end waits for the device.
  virtual std::unique_ptr<StepTable> make_step_table(std::size_t tensors_max, StreamHandle stream,
                                                     PinnedPool* pinned = nullptr) = 0;
  virtual std::unique_ptr<CopyTable> make_copy_table(std::size_t tensors_max, StreamHandle stream,
                                                     PinnedPool* pinned = nullptr) = 0;
  /// `chunks_max`: of all tensors together.
  virtual std::unique_ptr<SampleTable> make_sample_table(std::size_t tensors_max,
                                                         std::size_t chunks_max,
                                                         StreamHandle stream,
                                                         PinnedPool* pinned = nullptr) = 0;
  /// kernels::widen().
  virtual void widen(float* values, const std::byte* source, DataType dtype, std::int64_t count,
                     StreamHandle stream) = 0;
  /// marks[i] = counts[i] > 0 ? 1 : 0, as float32, float16 or bfloat16; the counts are zero
  /// afterwards, for the next step.
  virtual void mark(std::byte* marks, DataType dtype, std::int64_t* counts, std::int64_t count,
                    StreamHandle stream) = 0;
  /// *found <- *found + how many of `count` values of float32, float16 or bfloat16 are NaN or Inf.
  virtual void count_nonfinite(std::int64_t* found, const std::byte* values, DataType dtype,
                               std::int64_t count, StreamHandle stream) = 0;
  /// Offsets on their way, as `wire_bytes` each: 1 (of those below 256) or 2.
  virtual void pack_offsets(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                            std::int64_t count, StreamHandle stream) = 0;
  /// And back, in other memory: what is first on the wire comes to place `first` (below `count`),
  /// and what would go beyond the end to the begin.
  virtual void unpack_offsets(std::uint16_t* offsets, const std::byte* wire,
                              std::int64_t wire_bytes, std::int64_t count, std::int64_t first,
                              StreamHandle stream) = 0;

 private:
  virtual AcceleratorMemory take(std::size_t bytes) = 0;
  virtual AcceleratorMemory take(std::size_t bytes, MemoryOrder order) = 0;
  /// All that is kept and not used, without a wait: what is on its way back may stay.
  virtual void give_back_kept() = 0;
};

/// The CUDA device of this number. Throws Error(unavailable): no driver, no such device, or this
/// library was built without CUDA.
std::unique_ptr<Accelerator> make_cuda_accelerator(int index);

/// Accelerator::description() of every device that this process sees, without taking any of it.
/// Throws Error(unavailable) where there is none: no driver, no device, no CUDA in this build.
std::vector<std::string> describe_cuda_devices();

}  // namespace scalecom
