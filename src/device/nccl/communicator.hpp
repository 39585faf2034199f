#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/wait.hpp"
#include "device/nccl/api.hpp"
#include "device/nccl/poster.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom::device::nccl {

/// Rank 0's, for the other ranks of a communicator. Throws Error.
UniqueId make_unique_id(const Api& api);

/// Some ranks that communicate through NCCL, on memory of the current CUDA device. Confined to one
/// thread. Every rank of it makes the same calls in the same order.
///
/// No call blocks the caller's thread in NCCL: what create() gives does not block, and what is in
/// progress is polled; the calls of what split() gives block, and are a poster's. A collective
/// begins its call, which is over when is_posted(): it is in the stream then, not done. The next
/// one may be begun; check() tells meanwhile whether it has failed. The others wait, under the wait
/// discipline. The first error, a deadline that has passed or an interrupt (another rank was lost)
/// aborts the communicator, which ends its kernels and what a poster is in: memory given to it is
/// free once the stream is synchronized. Calls after that throw the first error again.
class Communicator {
 public:
  /// All ranks call it with rank 0's id.
  static std::unique_ptr<Communicator> create(std::shared_ptr<const Api> api, const UniqueId& id,
                                              int rank, int size, const WaitContext& context);

  /// Aborts what close() has not ended.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }

  /// Where one of split() goes.
  struct Part {
    int color = 0;  ///< ranks of one color come together; negative: this rank gets none
    int rank = 0;   ///< this rank's place in it
    int size = 1;   ///< how many ranks have this color
  };
  /// A communicator of some of these ranks, of one that create() has made; all call it. Null for a
  /// negative color. `poster` makes its calls, and outlives it. Throws Error(unavailable) for NCCL
  /// before 2.18, which leaves this communicator usable.
  std::unique_ptr<Communicator> split(const Part& part, Poster& poster, const WaitContext& context);

  /// What was begun is in the stream.
  bool is_posted() const noexcept { return !posting_; }
  /// Looks after the call that was begun; false: nothing has come of it. Throws what it ended with,
  /// or that the deadline which it was begun with has passed. Interrupts are its caller's, who
  /// waits.
  bool advance();

  /// `from` may be `to`. Throws Error(invalid_argument) for what NCCL does not reduce: int16 and
  /// boolean.
  void all_reduce(const void* from, void* to, std::size_t count, DataType dtype, ReduceOp op,
                  StreamHandle stream, const WaitContext& context);
  /// Every rank's `from` has count elements for each rank; `to` gets this rank's.
  void reduce_scatter(const void* from, void* to, std::size_t count, DataType dtype, ReduceOp op,
                      StreamHandle stream, const WaitContext& context);
  /// The bytes of `root`'s `from` are in every rank's `to`.
  void broadcast(const void* from, void* to, std::size_t bytes, int root, StreamHandle stream,
                 const WaitContext& context);
  /// Every rank's `bytes` bytes, in rank order.
  void all_gather(const void* from, void* to, std::size_t bytes, StreamHandle stream,
                  const WaitContext& context);

  /// Parts of a rank's memory for, or from, each rank: one after the other, in rank order.
  struct Parts {
    std::byte* data = nullptr;
    std::span<const std::int64_t> bytes;  ///< of each rank's part
  };
  /// Part r of `all` is rank r's, and this rank's is there already. Where parts are unequal it is a
  /// broadcast of each that is not empty, in one group: each rank sends what a ring's would.
  void all_gather_parts(const Parts& all, StreamHandle stream, const WaitContext& context);
  /// This rank's part of `all` = op over ranks of that part. Where parts are unequal it is a
  /// reduction of each that is not empty to its rank, in one group: the bytes of a ring's
  /// reduce-scatter, as up to `size` pipelines in place of one, so a chain's latency for each.
  void reduce_scatter_parts(const Parts& all, DataType dtype, ReduceOp op, StreamHandle stream,
                            const WaitContext& context);

  /// Part r of `from` goes to rank r, into its part of this rank's number. `from` is only read.
  void all_to_all(const Parts& from, const Parts& to, StreamHandle stream,
                  const WaitContext& context);

  /// Throws what has gone wrong since, in a kernel or at a peer.
  void check();

  /// All ranks end it in an orderly way, once what is in their streams is done.
  void close(const WaitContext& context);

  /// From here on a failure does not abort it, and whoever called must: who has several in one
  /// stream aborts them together, in a group of NCCL's. Each abort waits for what its own kernels
  /// wait for, and so one after the other might never end.
  void leave_abort_to_caller() noexcept { is_aborted_by_caller_ = true; }

  /// Gives it up: its kernels end. Nobody is waited for, but for a moment a poster that is in a
  /// call: once that is back, all that was begun is in its stream or never will be.
  void abort() noexcept;

 private:
  Communicator(std::shared_ptr<const Api> api, Poster* poster, int rank, int size)
      : api_(std::move(api)), poster_(poster), rank_(rank), size_(size) {}

  void ensure_usable() const;
  /// NCCL's functions and the handle, for a call that may outlast this object.
  using Call = std::function<Result(const Api& api, CommHandle comm)>;
  /// Begins it, and looks whether it is over already.
  void post(Call call, const std::string& what, const WaitContext& context);
  void post_group(std::vector<Call> calls, const std::string& what, const WaitContext& context);
  /// Here, or where the poster makes it.
  void begin(Call call, const std::string& what, const WaitContext& context);
  /// Until what was begun is over. Aborts and throws where it fails.
  void wait(const WaitContext& context);
  [[noreturn]] void fail(const Error& error);

  const std::shared_ptr<const Api> api_;
  Poster* const poster_;  ///< null: calls do not block, and are made here
  const int rank_;
  const int size_;
  CommHandle comm_ = nullptr;
  struct Posting {
    std::string what;
    Deadline deadline;
    std::optional<Result> result;  ///< absent: the poster is in the call
  };
  std::optional<Posting> posting_;  ///< what is not over yet
  std::optional<Error> failure_;
  bool is_aborted_by_caller_ = false;
};

}  // namespace scalecom::device::nccl
