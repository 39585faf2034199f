#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collective/device/device_lane.hpp"
#include "sparse/sparse_all_reduce.hpp"

namespace scalecom {

/// How a ScaleCom batch lies in a lane's memory, and its tables on the accelerator: the same
/// whoever leads, so that steps that differ in their leaders alone write and send nothing of it
/// anew. Each tensor is cut in *shards*, one for each rank (cyclic: one in all), and buffers have
/// the first shard of all tensors, then the second. So who leads is a range of the table's tensors.
/// Confined to one thread, which has entered the accelerator.
class DeviceSparseLayout {
 public:
  /// Consecutive chunks of a slot that are in one shard: a tensor of the tables.
  struct Part {
    std::size_t slot = 0;
    std::int64_t first = 0;  ///< element of the slot
    std::int64_t count = 0;  ///< elements
    std::int64_t begin = 0;  ///< its first chunk's place in the batch
    std::int64_t chunks = 0;
  };

  struct Buffers {
    std::uint16_t* offsets = nullptr;
    std::byte* wire = nullptr;    ///< for offsets; null: nothing but `offsets` is ever needed
    std::byte* values = nullptr;  ///< and the marks
    float* kept = nullptr;
    float* reduced = nullptr;  ///< and the marks
    std::int64_t* counts = nullptr;
    float* averages = nullptr;

    friend bool operator==(const Buffers&, const Buffers&) = default;
  };

  /// The lane outlives it.
  DeviceSparseLayout(DeviceLane& lane, std::span<const SparseSlot> slots, const SparsePlan& plan);

  /// Whether it is that of such a batch, whose leader may be another.
  bool is_of(std::span<const SparseSlot> slots, const SparsePlan& plan) const;
  /// Before prepare(): writes its tables where those of another one are, which ends.
  void take_tables(DeviceSparseLayout& former);
  /// For the lane's next batch: has the buffers, and tables that know them.
  void prepare();

  /// As they were given, without names.
  std::span<const SparseSlot> slots() const noexcept { return slots_; }
  /// With what is swept as the gradient: an average, if there is one.
  std::span<const SparseSlot> swept() const noexcept { return swept_; }
  std::span<const Part> parts() const noexcept { return parts_; }
  std::int64_t elements() const noexcept { return elements_; }
  std::int64_t chunks() const noexcept { return chunks_.back(); }
  std::int64_t marks() const noexcept { return std::ssize(slots_); }
  bool has_averages() const noexcept { return has_averages_; }
  /// Of an offset on the wire.
  std::int64_t offset_bytes() const noexcept { return offset_bytes_; }

  std::int64_t shards() const noexcept { return std::ssize(chunks_) - 1; }
  /// Its tensors in steps(), the same as its places in parts().
  TensorRange tensors_of(std::int64_t shard) const;
  /// Chunks of all shards before it.
  std::int64_t chunks_before(std::int64_t shard) const;

  const Buffers& buffers() const noexcept { return buffers_; }
  const StepTable& steps() const { return *steps_; }
  /// Where there are averages: fills what steps() cannot, as its gradients are those.
  const StepTable& results() const { return *results_; }
  /// Scales the reduced values; null: by nothing.
  const CopyTable* scaling() const { return is_scaled_ ? &*scaling_ : nullptr; }

 private:
  void add_part(std::size_t slot, std::int64_t shard, std::int64_t shards);
  Buffers acquire_buffers();
  void write_tables();
  void write_scaling();
  StepTensor row_of(const Part& part) const;

  DeviceLane& lane_;
  const int size_;
  std::vector<SparseSlot> slots_;
  std::vector<SparseSlot> swept_;
  const CompressionMode mode_;
  const DataType values_;
  const bool has_averages_;
  std::int64_t elements_ = 0;
  std::int64_t offset_bytes_ = 1;
  std::vector<Part> parts_;           ///< in the order of their shards
  std::vector<std::size_t> tensors_;  ///< before each shard, and all
  std::vector<std::int64_t> chunks_;  ///< likewise
  Buffers buffers_;                   ///< those that the tables know
  GrownTable<StepTable> steps_;
  GrownTable<StepTable> results_;
  GrownTable<CopyTable> scaling_;
  bool is_scaled_ = false;
};

/// The layouts of a lane's last few batches, and fewer where they have many parts together: a part
/// takes 500 bytes of the host and 150 of the accelerator. A model has a few batches a step, and
/// tables written anew are most of what a batch takes of the host.
class DeviceSparseLayouts {
 public:
  static constexpr std::size_t kLayoutsMax = 16;
  static constexpr std::size_t kPartsMax = 16'384;

  explicit DeviceSparseLayouts(DeviceLane& lane) : lane_(lane) {}
  /// Prepared for the lane's next batch. Only while the lane is free; valid until the next call.
  DeviceSparseLayout& find(std::span<const SparseSlot> slots, const SparsePlan& plan);

 private:
  DeviceLane& lane_;
  std::vector<std::unique_ptr<DeviceSparseLayout>> layouts_;  ///< the last one used comes first
};

}  // namespace scalecom
