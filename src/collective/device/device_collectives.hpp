#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/wait.hpp"
#include "kernels/accelerator.hpp"
#include "scalecom/tensor.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// Collectives on memory of this rank's accelerator, in the order of a stream. Every rank starts
/// the same operations in the same order with agreeing arguments. Confined to one thread.
///
/// An operation takes what `stream` has left in its memory when it comes to it. It is *posted* when
/// all has been enqueued: what is enqueued on the stream from then on comes behind the results.
/// Operations are posted in the order of their start. No call waits for the device. Errors are
/// thrown (Error: rank_lost, timed_out, unavailable, internal); after one the object is unusable,
/// and what its operations were to write is not specified.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  /// "nccl", or "host" for the host's collectives behind copies through pinned memory.
  virtual std::string_view name() const noexcept = 0;
  /// For people: versions, and why not another one.
  virtual std::string description() const = 0;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// Ranks of this host, this one among them.
  virtual int host_size() const noexcept = 0;

  /// An operation is started soon, behind some passes: what sleeps until then may wake up. Whether
  /// or not one is started.
  virtual void get_ready() noexcept {}

  /// Over which ranks.
  enum class Span { all, host };

  /// data = op over ranks of data, `count` elements. Every dtype; `op` is not average.
  virtual void all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op,
                          Span span, StreamHandle stream, const WaitContext& context) = 0;
  /// Part r of `all` is rank r's, and this rank's is there already.
  virtual void all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank,
                          StreamHandle stream, const WaitContext& context) = 0;
  /// data = root's data.
  virtual void broadcast(std::byte* data, std::int64_t bytes, int root, StreamHandle stream,
                         const WaitContext& context) = 0;
  /// As Collectives::reduce_scatter: part `rank` of data = op over ranks of that part.
  virtual void reduce_scatter(std::byte* data, std::span<const std::int64_t> bytes_per_rank,
                              DataType dtype, ReduceOp op, StreamHandle stream,
                              const WaitContext& context) = 0;
  /// As Collectives::all_to_all.
  virtual void all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                          std::byte* receive, std::span<const std::int64_t> receive_bytes,
                          StreamHandle stream, const WaitContext& context) = 0;

  /// Moves on what is not posted; false: nothing could be done. The host's collectives are advanced
  /// by their owner.
  virtual bool advance(const WaitContext& context) = 0;
  /// All operations that have been started are posted.
  virtual bool is_posted() const noexcept = 0;

  /// Throws what has gone wrong since in what is posted. Cheap.
  virtual void check() = 0;
  /// The orderly end, by all ranks once everything is posted: returns when it is done on the
  /// device.
  virtual void close(const WaitContext& context) = 0;
  /// Gives up: what is under way on the device ends, with whatever results.
  virtual void abort() noexcept = 0;

  /// What this rank has given to others so far, but for what the host's collectives count.
  virtual TransportCounters counters() const noexcept = 0;
};

}  // namespace scalecom
