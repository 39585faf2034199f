#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "transport/bootstrap.hpp"

namespace scalecom::test {

/// What threads that stand for ranks exchange through.
class Exchange {
 public:
  /// Who has come waits for the others for at least so long, whatever its own limit is.
  explicit Exchange(int size, Bootstrap::Limit least = {}) : size_(size), least_(least) {}

  std::vector<std::string> exchange(int rank, int round, const std::string& mine,
                                    Bootstrap::Limit limit) {
    std::unique_lock lock(mutex_);
    auto& blobs = rounds_[round];
    blobs.resize(static_cast<std::size_t>(size_));
    blobs[static_cast<std::size_t>(rank)] = mine;
    ++arrived_[round];
    changed_.notify_all();
    const auto have_come = [&] { return arrived_[round] == size_; };
    if (!changed_.wait_for(lock, std::max(limit, least_), have_come)) {
      throw ranks_missing(size_, limit);
    }
    return rounds_[round];
  }

 private:
  const int size_;
  const Bootstrap::Limit least_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, std::vector<std::string>> rounds_;
  std::map<int, int> arrived_;
};

/// A rank's bootstrap over it; `edit` changes what rank 0 has said.
class ThreadBootstrap final : public Bootstrap {
 public:
  using Edit = std::function<std::string(std::string)>;
  ThreadBootstrap(Exchange& exchange, int rank, int size, Edit edit = {})
      : exchange_(exchange), rank_(rank), size_(size), edit_(std::move(edit)) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    auto blobs = exchange_.exchange(rank_, round_++, mine, limit);
    if (edit_) blobs[0] = edit_(blobs[0]);
    return blobs;
  }

 private:
  Exchange& exchange_;
  int rank_;
  int size_;
  Edit edit_;
  int round_ = 0;
};

}  // namespace scalecom::test
