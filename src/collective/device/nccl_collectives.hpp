#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collective/collectives.hpp"
#include "collective/device/device_collectives.hpp"
#include "collective/device/staged_collectives.hpp"
#include "device/nccl/communicator.hpp"
#include "device/nccl/poster.hpp"
#include "device/nccl/tuner.hpp"

namespace scalecom {

/// Collectives on CUDA memory over NCCL. One operation is begun at a time, in their order: those
/// behind it wait until it is posted. What NCCL does not reduce, int16, goes through the host's
/// collectives. boolean travels as uint8: sum and max are max, product and min are min.
///
/// From NCCL 2.18 on it works on communicators that block, which are split off at the beginning:
/// one of all ranks, and where several hosts have several ranks one inside each host. advance()
/// looks whether a call has come back: one that has not by the deadline it was begun with fails.
class NcclCollectives final : public DeviceCollectives {
 public:
  struct Needs {
    std::shared_ptr<const device::nccl::Api> api;
    Accelerator& accelerator;
    Collectives& host;
    /// Of each rank, the number of its host, as `host` sees them: host.host_size() have this
    /// rank's.
    std::vector<int> host_of_rank;
    /// Of every all-reduce, where NCCL asks this library's tuner.
    device::nccl::AllReduceAlgorithm algorithm = device::nccl::AllReduceAlgorithm::own_choice;
    /// Has `accelerator` entered on its thread. From NCCL 2.18 on.
    std::unique_ptr<device::nccl::Poster> poster;
  };

  /// All ranks call it at once, with nothing under way in `needs.host`, which passes on rank 0's
  /// unique id. Throws Error.
  static std::unique_ptr<NcclCollectives> create(Needs needs, const WaitContext& context);

  std::string_view name() const noexcept override { return "nccl"; }
  std::string description() const override;
  int rank() const noexcept override { return needs_.host.rank(); }
  int size() const noexcept override { return static_cast<int>(needs_.host_of_rank.size()); }
  int host_size() const noexcept override { return host_part_.size; }
  void get_ready() noexcept override {
    if (needs_.poster != nullptr) needs_.poster->get_ready();
  }

  void all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op, Span span,
                  StreamHandle stream, const WaitContext& context) override;
  void all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank, StreamHandle stream,
                  const WaitContext& context) override;
  void broadcast(std::byte* data, std::int64_t bytes, int root, StreamHandle stream,
                 const WaitContext& context) override;
  /// With unequal parts: Communicator::reduce_scatter_parts().
  void reduce_scatter(std::byte* data, std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                      ReduceOp op, StreamHandle stream, const WaitContext& context) override;
  void all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                  std::byte* receive, std::span<const std::int64_t> receive_bytes,
                  StreamHandle stream, const WaitContext& context) override;

  bool advance(const WaitContext& context) override;
  bool is_posted() const noexcept override { return waiting_.empty() && has_posted_begun(); }
  void check() override;
  void close(const WaitContext& context) override;
  void abort() noexcept override;
  /// Calls, and bytes of this rank's memory that they give to others, once for each call: what
  /// NCCL puts on links depends on its algorithms, and it does not tell.
  TransportCounters counters() const noexcept override { return counters_; }

 private:
  using Communicator = device::nccl::Communicator;
  using Post = std::function<void(const WaitContext& context)>;

  explicit NcclCollectives(Needs needs);
  void connect(const device::nccl::UniqueId& id, const WaitContext& context);
  void start(Post post, const WaitContext& context);
  bool post_waiting(const WaitContext& context);
  bool has_posted_begun() const noexcept;
  Communicator& communicator_of(Span span);
  void count(std::int64_t bytes);
  void ensure_usable() const;
  template <class Body>
  auto guarded(const Body& body);

  const Needs needs_;
  const Communicator::Part host_part_;
  StagedCollectives staged_;
  std::unique_ptr<Communicator> everyone_;
  std::unique_ptr<Communicator> inside_;
  std::deque<Post> waiting_;  ///< not begun
  TransportCounters counters_;
  std::optional<Error> failure_;
};

}  // namespace scalecom
