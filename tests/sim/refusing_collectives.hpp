#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.hpp"
#include "collective/collectives.hpp"

namespace scalecom::sim {

/// Collectives on the host of which a simulation needs one: what is not overridden is refused.
class RefusingCollectives : public Collectives {
 public:
  void all_reduce(std::span<std::byte>, DataType, ReduceOp, const WaitContext&) override {
    refuse();
  }
  void broadcast(std::span<std::byte>, int, const WaitContext&) override { refuse(); }
  void all_gather(std::span<const std::byte>, std::span<std::byte>, std::span<const std::int64_t>,
                  const WaitContext&) override {
    refuse();
  }
  void reduce_scatter(std::span<std::byte>, std::span<const std::int64_t>, DataType, ReduceOp,
                      const WaitContext&) override {
    refuse();
  }
  void all_to_all(std::span<const std::byte>, std::span<const std::int64_t>, std::span<std::byte>,
                  std::span<const std::int64_t>, const WaitContext&) override {
    refuse();
  }
  TransportCounters counters() const noexcept override { return {}; }

 private:
  void refuse() const {
    SCALECOM_ASSERT(false, std::string(name()) + " has one collective, and this is another one");
  }
};

}  // namespace scalecom::sim
