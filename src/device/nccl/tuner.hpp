#pragma once

#include <cstdint>
#include <string>

/// Which algorithm NCCL's all-reduces take. NCCL asks a plugin, for each call of each communicator:
/// this library is one, by the symbol ncclTunerPlugin_v4, which NCCL 2.24 and all later ones know.
/// NCCL loads its one plugin of a process when it makes the first communicator, from the path in
/// NCCL_TUNER_PLUGIN; for communicators of others it leaves NCCL its choice.
namespace scalecom::device::nccl {

enum class AllReduceAlgorithm : int { own_choice = -1, tree = 0, ring = 1 };

/// NCCL's for a name of SCALECOM_ALLREDUCE_ALGORITHM: "ring", or "double_tree", which is what its
/// tree is. Its own choice for all others.
AllReduceAlgorithm all_reduce_algorithm_of(const std::string& name);

/// What to set NCCL_TUNER_PLUGIN to: the file that this code was loaded from.
std::string tuner_library();

/// While it lives, communicators that this process makes get `algorithm` for all their
/// all-reduces. Those that live at once give the same.
class TunedCommunicators {
 public:
  explicit TunedCommunicators(AllReduceAlgorithm algorithm);
  ~TunedCommunicators();
  TunedCommunicators(const TunedCommunicators&) = delete;
  TunedCommunicators& operator=(const TunedCommunicators&) = delete;

  /// NCCL has asked for a communicator meanwhile. False: it has no plugin, or another one.
  bool has_been_asked() const;

 private:
  const std::int64_t asked_before_;
};

}  // namespace scalecom::device::nccl
