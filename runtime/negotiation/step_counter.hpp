#pragma once

#include <cstdint>

#include "runtime/negotiation/tensor_table.hpp"

namespace scalecom::negotiation {

/// Rank 0's count of each compressed tensor's calls, by name. It has an entry for
/// each name that was ever compressed: less memory than the residual that every rank keeps for it.
class StepCounter {
 public:
  /// The step of this call: counts on from signature.first_step, from the start again when that
  /// changed. 0 without compression.
  std::int64_t count(const std::string& name, const TensorSignature& signature) {
    if (!is_compressed(signature)) return 0;
    const auto [place, is_new] = counts_.try_emplace(name);
    Count& tensor = place->second;
    if (is_new || tensor.first != signature.first_step) {
      tensor = {signature.first_step, signature.first_step};
    }
    return tensor.next++;
  }

  /// The step that count() would give.
  std::int64_t next(const std::string& name, const TensorSignature& signature) const {
    if (!is_compressed(signature)) return 0;
    const auto found = counts_.find(name);
    const bool counts_on = found != counts_.end() && found->second.first == signature.first_step;
    return counts_on ? found->second.next : signature.first_step;
  }

  /// The next call with this signature gets the step `next`.
  void set_next(const std::string& name, const TensorSignature& signature, std::int64_t next) {
    if (!is_compressed(signature)) return;
    counts_[name] = {signature.first_step, next};
  }

  /// The next call counts from its signature.first_step.
  void forget(const std::string& name) { counts_.erase(name); }

 private:
  struct Count {
    std::int64_t first = 0;
    std::int64_t next = 0;
  };
  StringMap<Count> counts_;
};

}  // namespace scalecom::negotiation
