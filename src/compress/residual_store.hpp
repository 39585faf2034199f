#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/string_map.hpp"
#include "scalecom/tensor.hpp"

namespace scalecom {

/// Values of a residual that are in another memory than the host's.
class ResidualMemory {
 public:
  virtual ~ResidualMemory() = default;
  /// A copy. Waits for what is under way there, within bounds.
  virtual std::vector<float> read() const = 0;
  /// value * multiply / divide, rounded once.
  virtual void scale(double multiply, double divide) = 0;
};

/// The residuals of one rank, its error-feedback memory: float32, zero at start, keyed by tensor
/// name, never by batch. Confined to one thread.
class ResidualStore {
 public:
  struct Entry {
    Shape shape;
    /// Empty as long as nobody has used them in the host's memory: see in_host().
    std::vector<float> values;
    /// Has the values, if it is there.
    std::shared_ptr<ResidualMemory> elsewhere;
    /// The tensor's step after the last completed one; saved and restored with the values.
    std::int64_t next_step = 0;
    /// Discount of the filter that made the values: this rank still owes values / beta. 0 where it
    /// is not known, as of what was restored.
    double beta = 0.0;
    /// Whether all values are known to be zero.
    bool is_zero = true;
    /// Whether a dense step has delivered what could travel, and the values are what it has left.
    bool is_rest = false;
    /// The store's: what was acquired after this one the last time.
    std::pair<const std::string, Entry>* next = nullptr;

    /// The values, brought to the host's memory.
    std::vector<float>& in_host();
    /// A copy of them, wherever they are.
    std::vector<float> copy() const;
    /// From here on the filter has this discount; what is owed stays the same.
    void filter_by(double discount);
    /// A dense step has delivered all but `rest`, m of the same discount; empty: nothing is left.
    void settle(std::vector<float> rest, double discount);
  };

  ResidualStore() = default;
  ResidualStore(const ResidualStore&) = delete;
  ResidualStore& operator=(const ResidualStore&) = delete;

  /// The residual of `name`, created with zeros when absent. A change of shape drops the old
  /// memory, counts a reset and logs it with the name and both shapes. Fast where names come in
  /// the order of the last time.
  Entry& acquire(std::string_view name, const Shape& shape);

  /// The existing one, or null.
  const Entry* find(std::string_view name) const;

  /// Replaces or creates. values.size() must be count_of(shape), or 0 where is_zero. Zeros in the
  /// place of others drop these: it counts a reset and logs it.
  void restore(std::string_view name, Entry entry);

  std::int64_t reset_count() const noexcept { return reset_count_; }

  using Entries = StringMap<Entry>;
  const Entries& entries() const noexcept { return entries_; }

 private:
  /// None is ever taken out, so that places stay.
  Entries entries_;
  Entries::value_type* last_ = nullptr;  ///< acquired
  std::int64_t reset_count_ = 0;
};

}  // namespace scalecom
