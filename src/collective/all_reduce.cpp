#include "base/error.hpp"
#include "collective/algorithms.hpp"

namespace scalecom {

Steps all_reduce_steps(AllReduceAlgorithm algorithm, const Group& group, std::span<std::byte> data,
                       const Reduction& reduction) {
  switch (algorithm) {
    case AllReduceAlgorithm::direct: return direct_steps(group, data, reduction);
    case AllReduceAlgorithm::ring: return ring_steps(group, data, reduction);
    case AllReduceAlgorithm::recursive_doubling:
      return recursive_doubling_steps(group, data, reduction);
    case AllReduceAlgorithm::halving_doubling:
      return halving_doubling_steps(group, data, reduction);
    case AllReduceAlgorithm::double_tree: break;
  }
  SCALECOM_ASSERT(false, "an algorithm without steps");
  return {};
}

void run_all_reduce(AllReduceAlgorithm algorithm, const Group& group, std::span<std::byte> data,
                    const Reduction& reduction) {
  if (algorithm == AllReduceAlgorithm::double_tree) {
    double_tree_all_reduce(group, data, reduction);
  } else {
    run_steps(group, all_reduce_steps(algorithm, group, data, reduction), "all-reduce");
  }
}

}  // namespace scalecom
