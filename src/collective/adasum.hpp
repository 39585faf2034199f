#pragma once

#include <span>
#include <vector>

#include "collective/collectives.hpp"

namespace scalecom {

/// Combines vectors of all ranks by Adasum (Maleki et al., MLSys 2021, arXiv 2006.02924): two of
/// them, a and b, become
///
///   (1 - a.b / (2 a.a)) a + (1 - a.b / (2 b.b)) b
///
/// where a quotient with a zero norm counts as 0: their mean where they are parallel, their sum
/// where they are orthogonal. More are combined in rounds, in rank order: first as many pairs of
/// neighbours as leave a power of two, then all pairs of neighbours, down to one. NaN and Inf make
/// the whole vector NaN. Confined to one thread.
class Adasum {
 public:
  /// `collectives` outlives this object; `size` is the number of its ranks.
  Adasum(Collectives& collectives, int size) : collectives_(collectives), size_(size) {}

  /// output = after(Adasum over ranks of before(input)) for each piece, which has weights of its
  /// own. dtype is float16, bfloat16, float32 or float64; what a round yields is rounded to it,
  /// all else is computed in double. All ranks get the same bits. None may be under way in the
  /// collectives. Throws what they throw.
  void reduce(std::span<const Piece> pieces, DataType dtype, const WaitContext& context);

 private:
  class Layout;
  void combine(const Layout& layout, std::byte* rows, const WaitContext& context);

  Collectives& collectives_;
  const int size_;
  Scratch packed_;
  Scratch rows_;
  std::vector<double> products_;
};

}  // namespace scalecom
