#pragma once

#include <initializer_list>
#include <iterator>
#include <random>
#include <type_traits>

namespace scalecom::sim {

/// Everything about a run follows from one of these.
using Random = std::mt19937_64;

/// Between `from` and `to`, both included.
template <class Int>
Int draw(Random& random, Int from, std::type_identity_t<Int> to) {
  return std::uniform_int_distribution<Int>(from, to)(random);
}

/// Below `limit`, at least 0.
inline int draw_below(Random& random, int limit) { return draw(random, 0, limit - 1); }

/// True with this probability.
inline bool happens(Random& random, double chance) {
  return std::uniform_real_distribution<double>(0, 1)(random) < chance;
}

/// One of them.
template <class Value>
Value pick(Random& random, std::initializer_list<Value> values) {
  return *(values.begin() + draw(random, 0, static_cast<int>(std::ssize(values)) - 1));
}

}  // namespace scalecom::sim
