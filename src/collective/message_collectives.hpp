#pragma once

#include <string>

#include "collective/collectives.hpp"
#include "collective/cost_model.hpp"
#include "collective/group.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// The operations over any Transport, by the algorithm that the selector names for each size
/// and these costs.
class MessageCollectives final : public Collectives {
 public:
  /// `transport` outlives this object. Throws Error(invalid_argument) for an algorithm that
  /// select_all_reduce() does not know.
  explicit MessageCollectives(Transport& transport, std::string allreduce_algorithm = "auto",
                              const LinkCosts& costs = {});

  std::string_view name() const noexcept override { return "messages"; }
  int rank() const noexcept override { return transport_.rank(); }
  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override;
  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override;
  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override;
  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override;
  AllReduceExplanation explain_all_reduce(std::int64_t bytes) const override;
  TransportCounters counters() const noexcept override { return transport_.counters(); }

 private:
  Transport& transport_;
  const std::string allreduce_algorithm_;
  const LinkCosts costs_;
  Scratch scratch_;
};

}  // namespace scalecom
