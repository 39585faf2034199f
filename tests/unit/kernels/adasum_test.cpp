#include "kernels/adasum.hpp"

#include <random>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/unit/kernels/samples.hpp"
#include "tests/unit/kernels/targets.hpp"

using namespace scalecom;
using test::RawTensor;

namespace {

constexpr DataType kDtypes[] = {DataType::float16, DataType::bfloat16, DataType::float32,
                                DataType::float64};

RawTensor sample(DataType dtype, std::int64_t count, std::size_t misalignment,
                 std::mt19937& generator) {
  RawTensor tensor(dtype, count, misalignment);
  fill_floating(tensor, dtype, count, generator, 0);
  return tensor;
}

double dot(const RawTensor& a, const RawTensor& b, DataType dtype, std::int64_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    sum += floating_of(a, dtype, i) * floating_of(b, dtype, i);
  }
  return sum;
}

}  // namespace

TEST_CASE("pair_products are the dot product and the norms, for every length and dtype") {
  const unsigned seed = 21;
  std::mt19937 generator(seed);
  test::for_each_simd_target([&](const std::string& target) {
    for (const DataType dtype : kDtypes) {
      for (std::int64_t count = 0; count < 40; ++count) {
        const RawTensor a = sample(dtype, count, 1, generator);
        const RawTensor b = sample(dtype, count, 3, generator);
        const auto products = kernels::pair_products(a.data(), b.data(), count, dtype);
        const double norm_a = dot(a, a, dtype, count);
        const double norm_b = dot(b, b, dtype, count);
        CAPTURE(target, seed, to_string(dtype), count);
        CHECK(std::abs(products.dot - dot(a, b, dtype, count)) <= 1e-14 * (norm_a + norm_b));
        CHECK(std::abs(products.norm_a - norm_a) <= 1e-14 * norm_a);
        CHECK(std::abs(products.norm_b - norm_b) <= 1e-14 * norm_b);
      }
    }
  });
}

TEST_CASE("weighted_sum has the same bits on every instruction set and touches nothing else") {
  const unsigned seed = 22;
  test::for_each_simd_target([&](const std::string& target) {
    std::mt19937 generator(seed);
    for (const DataType dtype : kDtypes) {
      for (std::int64_t count = 0; count < 40; ++count) {
        const RawTensor a = sample(dtype, count, 1, generator);
        const RawTensor b = sample(dtype, count, 3, generator);
        RawTensor expected = a;
        for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
          set_floating(expected, dtype, i,
                       0.3 * floating_of(a, dtype, i) + -1.7 * floating_of(b, dtype, i));
        }
        RawTensor result = a;
        kernels::weighted_sum(result.data(), 0.3, b.data(), -1.7, count, dtype);
        CAPTURE(target, seed, to_string(dtype), count);
        CHECK(result == expected);
      }
    }
  });
}
