#pragma once

#include <cstdint>
#include <iostream>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

namespace scalecom::test {

/// How many of `count` fixed seeds to run: a quarter where a sanitizer makes each many times as
/// long, since it looks at what is done rather than at the results, which other builds compare.
unsigned seeds_of(unsigned count);

/// Seeds to run: `count` fixed ones and a fresh one, printed, so that every run tries something
/// new. Run the executable with --rng-seed N to try seed N alone.
inline std::vector<std::uint64_t> choose_seeds(std::uint64_t count) {
  const std::uint64_t given = Catch::getCurrentContext().getConfig()->rngSeed();
  if (given != 0) return {given};
  std::vector<std::uint64_t> seeds;
  for (std::uint64_t seed = 1; seed <= count; ++seed) seeds.push_back(seed);
  seeds.push_back(std::random_device{}());
  std::cout << "fresh seed " << seeds.back() << " (again with --rng-seed " << seeds.back() << ")\n";
  return seeds;
}

}  // namespace scalecom::test
