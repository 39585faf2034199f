#pragma once

#include <utility>

#include "device/nccl/poster.hpp"

namespace scalecom::test {

/// Makes calls on the caller's thread: at once, after some looks in vain, when they are given up,
/// or when the test says so.
class CallersPoster final : public device::nccl::Poster {
 public:
  void start(Call call) override {
    call_ = std::move(call);
    looks_left_ = looks_in_vain;
  }
  std::optional<device::nccl::Result> result() override {
    if (call_ && !is_held_back && looks_left_-- == 0) make();
    if (call_) return std::nullopt;
    return result_;
  }
  bool give_up() noexcept override {
    if (call_ && ++times_given_up == comes_back_at) make();
    return !call_;
  }
  void get_ready() noexcept override { ++times_ready; }

  /// The call that was begun comes back.
  void make() { result_ = std::exchange(call_, nullptr)(); }

  int looks_in_vain = 0;  ///< at each call
  bool is_held_back = false;
  int comes_back_at = 0;  ///< when it is given up for this time; 0: never
  int times_given_up = 0;
  int times_ready = 0;

 private:
  Call call_;  ///< not made yet
  int looks_left_ = 0;
  device::nccl::Result result_ = device::nccl::Result::success;
};

}  // namespace scalecom::test
