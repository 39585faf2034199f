#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "collective/collectives.hpp"
#include "tests/sim/meeting.hpp"

namespace scalecom::sim {

/// One rank's collectives on the host, as far as devices are measured with them: all-gathers, in
/// which `pause` is called until every rank's part is there.
class MeetingHost final : public Collectives {
 public:
  MeetingHost(Seat seat, std::function<void()> pause) : seat_(seat), pause_(std::move(pause)) {}

  std::string_view name() const noexcept override { return "meeting"; }
  int rank() const noexcept override { return seat_.place; }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank, const WaitContext&) override {
    const std::size_t number = seat_.started++;
    seat_.meeting->put(number, seat_.place, fmt::format("all-gather of {}", bytes_per_rank.front()),
                       Bytes(mine.begin(), mine.end()));
    while (seat_.meeting->find(number) == nullptr) pause_();
    auto place = all.begin();
    for (const Bytes& part : *seat_.meeting->find(number)) {
      place = std::copy(part.begin(), part.end(), place);
    }
  }

  void all_reduce(std::span<std::byte>, DataType, ReduceOp, const WaitContext&) override {
    refuse();
  }
  void broadcast(std::span<std::byte>, int, const WaitContext&) override { refuse(); }
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
  static void refuse() { SCALECOM_ASSERT(false, "no device is measured with it"); }

  Seat seat_;
  const std::function<void()> pause_;
};

}  // namespace scalecom::sim
