#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/string_map.hpp"
#include "runtime/negotiation.hpp"
#include "runtime/negotiation/rank_set.hpp"

namespace scalecom::negotiation {

/// Ranks that submitted a tensor with one signature.
struct SignatureGroup {
  TensorSignature signature;
  RankSet ranks;
};

/// True when each rank chooses its own first extent, which its requests then carry.
inline bool has_own_first_extent(OperationKind kind) noexcept {
  return first_extents_of_rank(kind, 1) > 0;
}

/// True when the ranks with these signatures can execute together: all is equal, but a first
/// extent that each rank chooses.
bool agree(const TensorSignature& a, const TensorSignature& b) noexcept;

/// What is known of a tensor that its subtree has not completed for a while.
struct StallState {
  /// By member: the ranks that a child reported, while it is incomplete.
  std::vector<RankSet> reported;
  bool is_reported_up = false;
  bool is_queued = false;
  TimePoint next_event{};  ///< rank 0: when the next Stall event is due
};

/// All that a node knows about one name. Members are the contributors of a node: member 0 is the
/// rank itself, member i + 1 its child i with the child's whole subtree.
struct Tensor {
  const std::string* name = nullptr;

  // Response cache. The signature belongs to the name, whatever its numbers: it changes only in an
  // agreement on this name, when no rank has a request of it under way.
  std::array<std::int32_t, 2> numbers{-1, -1};  ///< by parity of the generation
  TensorSignature cached;

  // The request under way; reset by its agreement or mismatch.
  std::uint32_t arrived = 0;                ///< bit per member
  const TensorSignature* common = nullptr;  ///< of all that arrived; null: none, or they differ
  TensorSignature local;                    ///< this rank's, when bit 0 has arrived
  std::string local_name;
  TensorSignature received;            ///< what `common` points to when a child was first
  std::vector<SignatureGroup> groups;  ///< when they differ
  bool is_sent_up = false;             ///< complete, and with the parent; at rank 0: to be ordered
  std::vector<std::int64_t> extents;   ///< first extents of the subtree's ranks, if they choose
  std::unique_ptr<StallState> stall;
  TimePoint heard{};  ///< when its first request was heard of here

  std::int32_t scheduled = -1;  ///< the agreement of the schedule that it is in; -1: none

  // Partly submitted tensors, in order of arrival.
  TimePoint since{};
  Tensor* previous = nullptr;
  Tensor* next = nullptr;
  bool is_partial = false;

  bool is_cached() const noexcept { return numbers[0] >= 0 || numbers[1] >= 0; }
};

/// The tensors that a node knows: under way, or in the response cache.
///
/// The cache numbers tensors 0, 1, 2... in the order of the agreement stream, so every rank holds
/// the same table. Numbers are never reused in a generation; when the table is full rank 0 may
/// start the next one, and the last one's numbers stay readable until the one after it.
class TensorTable {
 public:
  explicit TensorTable(std::int64_t cache_capacity);

  Tensor& get(std::string_view name);
  /// Null when the name is neither under way nor cached.
  Tensor* find(std::string_view name);

  std::uint64_t generation() const noexcept { return generation_; }
  std::size_t cached_count() const noexcept { return current().size(); }
  std::size_t capacity() const noexcept { return capacity_; }
  /// Numbers that are left in this generation.
  std::size_t room() const noexcept { return capacity_ - cached_count(); }
  /// Null when the generation is neither this nor the last one, or has no such number.
  Tensor* find_number(std::uint64_t generation, std::uint64_t number) noexcept;
  /// In this generation; requires number < cached_count().
  const Tensor& numbered(std::int32_t number) const noexcept {
    return *current()[static_cast<std::size_t>(number)];
  }
  /// In this generation; -1 when it has none.
  std::int32_t number_of(const Tensor& tensor) const noexcept {
    return tensor.numbers[generation_ & 1];
  }
  /// Requires room, and that the tensor has no number in this generation.
  void assign_number(Tensor& tensor);
  /// The numbers of the generation before the current one are forgotten.
  void start_generation();

  /// Puts among, or takes out of, the partly submitted ones; before null: at the end.
  void list_partial(Tensor& tensor, TimePoint since, Tensor* before);
  void unlist_partial(Tensor& tensor) noexcept;
  Tensor* first_partial() const noexcept { return first_; }
  Tensor* last_partial() const noexcept { return last_; }

  /// Forgets what was heard of the request but this rank's own submit, which keeps its extents.
  void withdraw(Tensor& tensor) noexcept;
  /// The request is over. `tensor` is gone afterwards unless it is cached.
  void finish(Tensor& tensor);

  std::size_t size() const noexcept { return tensors_.size(); }

 private:
  const std::vector<Tensor*>& current() const noexcept { return numbered_[generation_ & 1]; }

  StringMap<Tensor> tensors_;
  std::size_t capacity_;
  std::uint64_t generation_ = 0;
  std::array<std::vector<Tensor*>, 2> numbered_;
  Tensor* first_ = nullptr;
  Tensor* last_ = nullptr;
};

}  // namespace scalecom::negotiation
