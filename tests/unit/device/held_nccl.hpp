#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

#include "tests/support/yield_until.hpp"
#include "tests/unit/device/nccl_world.hpp"

namespace scalecom::test {

/// NCCL whose calls can be held back: all-reduces and all-gathers, for 20 s at most.
struct HeldNccl {
  std::atomic<bool> is_held = false;
  /// Calls of each rank that are made all the same, since it is held.
  std::atomic<int> let_through = 0;
  std::atomic<bool> has_call = false;  ///< that is held

  void hold_calls_of(const FakeAccelerator* accelerator) {
    whose_ = accelerator;
    is_held = true;
  }

  auto load() {
    return [this](FakeAccelerator& accelerator) {
      device::nccl::Api api = world_.make_api(accelerator);
      const auto made = std::make_shared<std::atomic<int>>(0);
      hold(accelerator, made, api.all_reduce);
      hold(accelerator, made, api.all_gather);
      return api;
    };
  }

 private:
  template <class Call>
  void hold(FakeAccelerator& accelerator, std::shared_ptr<std::atomic<int>> made, Call& call) {
    call = [this, &accelerator, made, real = std::move(call)](auto... arguments) {
      yield_until(std::chrono::seconds(20), [&] {
        const bool waits =
            is_held && (whose_ == nullptr || whose_ == &accelerator) && *made >= let_through;
        if (waits) has_call = true;
        return !waits;
      });
      if (is_held) ++*made;
      return real(arguments...);
    };
  }

  NcclWorld world_;
  std::atomic<const FakeAccelerator*> whose_ = nullptr;  ///< null: all ranks'
};

}  // namespace scalecom::test
