#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "tests/sim/meeting.hpp"
#include "tests/sim/refusing_collectives.hpp"

namespace scalecom::sim {

/// One rank's collectives on the host, as far as devices are measured with them: all-gathers, in
/// which `pause` is called until every rank's part is there.
class MeetingHost final : public RefusingCollectives {
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

 private:
  Seat seat_;
  const std::function<void()> pause_;
};

}  // namespace scalecom::sim
