#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/deadline.hpp"

namespace scalecom::negotiation {

/// Watches rank 0's agreements for steps that repeat. A step is a maximal run of agreed tensors in
/// which none repeats; it is over as soon as it holds exactly the tensors of the one before. Knows
/// tensors by their cache numbers; constant work and 24 bytes of memory for each.
class ScheduleLearner {
 public:
  /// Ready after `steps` equal steps; 0: never.
  explicit ScheduleLearner(int steps);

  bool is_on() const noexcept { return steps_ > 0; }
  /// The next agreement, all of tensors that may be scheduled. `wait`: the longest time between
  /// the first request for one of them and now.
  void take(std::span<const std::int32_t> numbers, Clock::duration wait);
  /// Something came in between that cannot be scheduled.
  void reset();
  /// A schedule was left after this many rounds. One that did not pay needs more steps next time:
  /// twice as many, up to kStepsFactorMax times those of the constructor.
  void take_leave(std::uint64_t rounds);

  /// True when the last steps were equal, and the one under way has only their tensors.
  bool is_ready() const noexcept;
  /// Requires is_ready(). Agreements with the order and the cuts of the last step, beginning with
  /// what the step under way has not had.
  std::vector<std::vector<std::int32_t>> schedule() const;
  /// How long a rank's tensors may wait for the rest of the next agreement until the schedule is
  /// left: 20 ms and 4 times the longest wait of the steps that were equal, at most 1 s.
  Clock::duration patience() const noexcept;

  static constexpr int kStepsFactorMax = 8;

 private:
  struct Place {
    std::int32_t number = 0;
    bool is_first = false;  ///< of its agreement
  };
  struct Step {
    std::vector<Place> places;
    std::size_t known = 0;  ///< of them, those that the step before had
    Clock::duration wait{};
  };
  bool repeats() const noexcept;
  void end_step();
  std::uint64_t& stamp_of(std::int32_t number);
  std::uint64_t stamp(std::int32_t number) const noexcept;

  int steps_;
  int needed_;
  Step last_;
  Step current_;
  int equal_ = 0;           ///< steps in a row that are equal, last_ being the last of them
  Clock::duration wait_{};  ///< longest of those
  std::uint64_t step_ = 2;  ///< number of current_
  std::vector<std::uint64_t> stamps_;  ///< by cache number: the last step that had it
};

}  // namespace scalecom::negotiation
