#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/device_plan.hpp"

namespace scalecom::sim {

/// Where the operations of some ranks meet: what each has put in. All of them in one thread.
class Meeting {
 public:
  /// `violations` outlives it.
  Meeting(std::size_t size, std::vector<std::string>& violations)
      : size_(size), violations_(violations) {}

  /// What the rank of this place has for its operation of this number, which is `call` for all.
  void put(std::size_t number, int place, const std::string& call, Bytes data) {
    if (number >= operations_.size()) operations_.resize(number + 1);
    Operation& operation = operations_[number];
    if (operation.given == 0) operation.call = call;
    if (operation.call != call) {
      violate(fmt::format("operation {} is {} for rank {} of {}, elsewhere {}", number, call, place,
                          size_, operation.call));
    }
    operation.data.resize(size_);
    operation.data[static_cast<std::size_t>(place)] = std::move(data);
    ++operation.given;
  }
  /// Every rank's; null: not all are there.
  const std::vector<Bytes>* find(std::size_t number) const {
    return operations_[number].given == size_ ? &operations_[number].data : nullptr;
  }
  int size() const { return static_cast<int>(size_); }
  void violate(std::string what) { violations_.push_back(std::move(what)); }

 private:
  struct Operation {
    std::string call;
    std::size_t given = 0;
    std::vector<Bytes> data;
  };
  const std::size_t size_;
  std::vector<std::string>& violations_;
  std::vector<Operation> operations_;
};

/// A rank's place in a meeting, and how many operations it has begun there.
struct Seat {
  Meeting* meeting = nullptr;
  int place = 0;
  std::size_t started = 0;
};

/// The meetings of a job: of all ranks, of those of each host, and of all on the host's side.
class Meetings {
 public:
  /// By rank; `violations` outlives it.
  Meetings(const std::vector<std::size_t>& host_of_rank, std::vector<std::string>& violations)
      : host_of_rank_(host_of_rank),
        all_(host_of_rank.size(), violations),
        control_(host_of_rank.size(), violations) {
    for (std::size_t host = 0; host < host_of_rank.size(); ++host) {
      const auto ranks = std::ranges::count(host_of_rank, host);
      inside_.push_back(std::make_unique<Meeting>(static_cast<std::size_t>(ranks), violations));
    }
  }

  Seat all(int rank) { return {&all_, rank}; }
  /// Of the host's collectives.
  Seat control(int rank) { return {&control_, rank}; }
  /// Among the ranks of its host.
  Seat inside(int rank) {
    const std::size_t host = host_of_rank_[static_cast<std::size_t>(rank)];
    const auto begin = host_of_rank_.begin();
    return {inside_[host].get(), static_cast<int>(std::count(begin, begin + rank, host))};
  }

 private:
  const std::vector<std::size_t> host_of_rank_;
  Meeting all_;
  Meeting control_;
  std::vector<std::unique_ptr<Meeting>> inside_;  ///< by host
};

}  // namespace scalecom::sim
