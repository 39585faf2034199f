#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/sim/device_rank.hpp"

namespace scalecom::sim {

/// A job whose ranks have a fake accelerator each, in one thread: a seed says who moves next.
class DeviceSimulation {
 public:
  explicit DeviceSimulation(const DevicePlan& plan);

  /// Until all ranks are over and have given everything back, or something is wrong.
  void run();

  const std::vector<std::string>& violations() const noexcept { return violations_; }
  /// What was drawn, and what came of it.
  const std::string& log() const noexcept { return log_; }
  std::size_t draws() const noexcept { return draws_; }
  const DeviceRank& rank(int rank) const { return *ranks_[static_cast<std::size_t>(rank)]; }

 private:
  std::size_t draw(std::size_t below) { return random_() % below; }
  bool is_over();
  void step();
  bool act(std::size_t rank, std::size_t action);
  void lose_rank();
  bool is_known() const;  ///< that a rank is lost
  std::size_t agreed() const;

  const DevicePlan& plan_;
  std::mt19937_64 random_;
  std::vector<std::string> violations_;
  Meetings meetings_;
  SimulatedJob job_;
  std::vector<std::unique_ptr<DeviceRank>> ranks_;
  std::size_t laggard_ = 0;     ///< stands still until another draw; the size: none
  std::size_t lost_ = 0;        ///< the rank that will be
  std::size_t lost_after_ = 0;  ///< has begun so many calls
  bool is_lost_ = false;
  std::size_t draws_ = 0;
  std::string log_;
};

}  // namespace scalecom::sim
