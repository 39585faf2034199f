#include "device/nccl/tuner.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/log.hpp"
#include "device/nccl/api.hpp"
#include "scalecom/export.hpp"

namespace scalecom::device::nccl {
namespace {

// NCCL makes communicators on threads of its own, so what they are to get is a fact of the process.
std::atomic<AllReduceAlgorithm> algorithm_of_new{AllReduceAlgorithm::own_choice};
std::atomic<int> living{0};  // TunedCommunicators, all of one algorithm
std::atomic<std::int64_t> times_asked{0};
std::atomic<bool> has_told{false};

constexpr int kAllReduce = 4;      // ncclFuncAllReduce
constexpr float kIgnored = -1.0f;  // NCCL_ALGO_PROTO_IGNORE

// A communicator's context is its algorithm, behind 1.
void* context_of(AllReduceAlgorithm algorithm) {
  return reinterpret_cast<void*>(static_cast<std::intptr_t>(algorithm) + 1);
}

Result begin(std::size_t, std::size_t, void (*)(), void** context) {
  *context = context_of(algorithm_of_new);
  ++times_asked;
  return Result::success;
}

// Once for the process: each call is asked about.
void tell_of_own_choice(int wanted) {
  if (has_told.exchange(true)) return;
  const bool is_tree = wanted == static_cast<int>(AllReduceAlgorithm::tree);
  log_warning(std::string("SCALECOM_ALLREDUCE_ALGORITHM is ") + (is_tree ? "double_tree" : "ring") +
              ", which NCCL cannot take for an all-reduce here, so that it chooses by itself: see "
              "that NCCL_ALGO, where it is set, allows it (NCCL_DEBUG=INFO with "
              "NCCL_DEBUG_SUBSYS=TUNING tells more)");
}

// `costs` is a table by algorithm and protocol. NCCL takes the least cost that is not ignored: the
// protocol stays its choice. Where it has ruled the algorithm out, all stays its choice.
Result choose(void* context, int function, std::size_t, int, float** costs, int algorithms,
              int protocols, int, int*) {
  const auto wanted = static_cast<int>(reinterpret_cast<std::intptr_t>(context)) - 1;
  if (function != kAllReduce || wanted < 0 || wanted >= algorithms) return Result::success;
  float* const table = reinterpret_cast<float*>(costs);
  float* const row = table + wanted * protocols;
  if (std::all_of(row, row + protocols, [](float cost) { return cost < 0.0f; })) {
    tell_of_own_choice(wanted);
    return Result::success;
  }
  std::fill(table, row, kIgnored);
  std::fill(row + protocols, table + algorithms * protocols, kIgnored);
  return Result::success;
}

Result end(void*) { return Result::success; }

}  // namespace

/// NCCL's interface of a tuner, in a declaration of our own.
struct TunerPlugin {
  const char* name;
  Result (*init)(std::size_t ranks, std::size_t nodes, void (*log)(), void** context);
  Result (*get_coll_info)(void* context, int function, std::size_t bytes, int operations,
                          float** costs, int algorithms, int protocols, int is_registered,
                          int* channels);
  Result (*destroy)(void* context);
};

extern "C" SCALECOM_API const TunerPlugin ncclTunerPlugin_v4;
const TunerPlugin ncclTunerPlugin_v4{"scalecom", begin, choose, end};

AllReduceAlgorithm all_reduce_algorithm_of(const std::string& name) {
  if (name == "ring") return AllReduceAlgorithm::ring;
  if (name == "double_tree") return AllReduceAlgorithm::tree;
  return AllReduceAlgorithm::own_choice;
}

std::string tuner_library() {
  Dl_info info{};
  const bool is_found = dladdr(&ncclTunerPlugin_v4, &info) != 0 && info.dli_fname != nullptr;
  return is_found ? info.dli_fname : "";
}

// Several sessions of a process may make communicators at once. NCCL's calls wait for other ranks
// in between, so they cannot be let in one after the other.
TunedCommunicators::TunedCommunicators(AllReduceAlgorithm algorithm) : asked_before_(times_asked) {
  ++living;
  algorithm_of_new = algorithm;
}

TunedCommunicators::~TunedCommunicators() {
  if (--living == 0) algorithm_of_new = AllReduceAlgorithm::own_choice;
}

bool TunedCommunicators::has_been_asked() const { return times_asked != asked_before_; }

}  // namespace scalecom::device::nccl
