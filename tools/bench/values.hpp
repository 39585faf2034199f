#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "scalecom/tensor.hpp"

namespace scalecom::bench {

/// A vector of any dtype whose elements are read and written as double. The values used here are
/// small integers, exact in every dtype.
class Values {
 public:
  Values(std::int64_t count, DataType dtype);

  TensorView view();
  std::int64_t count() const noexcept { return count_; }
  void set(std::int64_t i, double value);

  /// Element i of rank r's input.
  static double input(std::int64_t i, int rank) {
    return static_cast<double>(i % 5) + static_cast<double>(rank % 3);
  }
  void fill_input(int rank);

 private:
  std::int64_t count_;
  DataType dtype_;
  std::vector<std::byte> memory_;
};

/// Element i of the reduction of all ranks' inputs.
double expected_reduction(std::int64_t i, int size, ReduceOp op);

/// Elements of a result that are not what they should be, within what the dtype rounds.
std::int64_t count_wrong(const TensorView& result,
                         const std::function<double(std::int64_t i)>& expected);

}  // namespace scalecom::bench
