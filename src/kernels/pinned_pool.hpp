#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/accelerator.hpp"

namespace scalecom {

/// Pinned host memory of an accelerator, lent again and again. CUDA frees such memory only when all
/// that is on the device is done, which a lost rank may hold up until the collectives are aborted,
/// and may wait as long to allocate it. So it comes in slabs, the first one at once, and none is
/// freed before the pool ends. Any thread.
class PinnedPool {
 public:
  /// From a thread that has entered the accelerator, which outlives the pool.
  explicit PinnedPool(Accelerator& accelerator);
  /// From such a thread too, when all was given back. What the device has not left within
  /// kEndTime stays pinned.
  ~PinnedPool();

  /// At least `bytes`, whatever they hold, aligned to 128. Given back, they are free behind what is
  /// enqueued on `stream` by then; it outlives them. From a thread that has entered the
  /// accelerator; they may be given back by any.
  AcceleratorMemory allocate(std::size_t bytes, StreamHandle stream);

  Accelerator& accelerator() const noexcept { return accelerator_; }

 private:
  struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    EventOwner free;  ///< behind it the device uses it no more
  };
  using Blocks = std::deque<std::unique_ptr<Block>>;

  std::unique_ptr<Block> take_idle(std::size_t bytes);
  std::unique_ptr<Block> cut(std::size_t bytes);
  void add_slab(std::size_t bytes);
  void give_back(std::unique_ptr<Block> block, StreamHandle stream) noexcept;
  bool is_free() const;

  Accelerator& accelerator_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<AcceleratorMemory> slabs_;
  std::size_t left_ = 0;                ///< bytes of the last slab, at its end
  std::size_t slab_bytes_ = 0;          ///< of the last slab
  std::size_t lent_ = 0;                ///< blocks that are not given back
  bool has_lost_ = false;               ///< some of those never will be
  std::map<std::size_t, Blocks> idle_;  ///< by their size
};

}  // namespace scalecom
