// Packing and unpacking on the device against the CPU's scale_copy, to the bit.

#include "kernels/cuda/scale.hpp"
#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"

using namespace scalecom;
using kernels::Scale;
using kernels::cuda::CopyTable;
using kernels::cuda::CopyTensor;
using test::Arena;
using test::one_of;

namespace {

constexpr Scale kScales[] = {{1.0, 1.0}, {0.25, 1.0}, {1.0, 3.0}, {1.0, 4.0},
                             {0.1, 1.0}, {0.1, 3.0},  {1.5, 7.0}, {1.0, 1e30}};
constexpr DataType kAll[] = {
    DataType::uint8,   DataType::int8,    DataType::int16,   DataType::int32,   DataType::int64,
    DataType::float16, DataType::float32, DataType::float64, DataType::boolean, DataType::bfloat16};
constexpr std::int64_t kCounts[] = {0, 1, 2, 7, 8, 15, 16, 17, 127, 1024, 10007, 131072};

}  // namespace

TEST_CASE("a table of copies on the device equals the CPU's, scaled, misaligned, of all dtypes",
          "[light]") {
  for (const std::uint64_t seed : test::choose_seeds(6)) {
    CAPTURE(seed);
    std::mt19937_64 generator(seed);
    Arena arena;
    struct Copy {
      std::size_t source, destination;
      std::int64_t count;
      DataType dtype;
      Scale scale;
    };
    std::vector<Copy> copies;
    for (int i = 0; i < 80; ++i) {
      const Scale scale = one_of(kScales, generator);
      const DataType dtype =
          scale.is_identity() ? one_of(kAll, generator) : one_of(test::kFloats, generator);
      const std::int64_t count =
          one_of(kCounts, generator) + static_cast<std::int64_t>(generator() % 5);
      const auto source = arena.add(dtype, count, static_cast<int>(generator() % 17));
      const auto destination = arena.add(dtype, count, static_cast<int>(generator() % 17));
      copies.push_back({source, destination, count, dtype, scale});
    }
    arena.allocate();
    std::vector<CopyTensor> tensors;
    for (const Copy& copy : copies) {
      const bool is_floating = copy.dtype == DataType::float32 || size_of(copy.dtype) == 2;
      if (is_floating && copy.dtype != DataType::int16) {
        test::fill_values(arena.host(copy.source), copy.dtype, copy.count, test::Values::nonfinite,
                          generator);
      } else {
        for (std::int64_t i = 0; i < copy.count * size_of(copy.dtype); ++i) {
          arena.host(copy.source)[i] = static_cast<std::byte>(generator() % 2);
        }
      }
      tensors.push_back({arena.device(copy.destination), arena.device(copy.source), copy.count,
                         copy.dtype, copy.scale});
    }
    arena.upload();
    CopyTable table(tensors.size());
    table.assign(tensors, arena.stream());
    table.scale_copy(arena.stream());
    for (const Copy& copy : copies) {
      kernels::scale_copy(arena.host(copy.destination), arena.host(copy.source), copy.count,
                          copy.dtype, copy.scale);
    }
    CHECK(arena.differences() == "");
  }
}

TEST_CASE("a tensor is scaled in its place", "[light]") {
  std::mt19937_64 generator(3);
  Arena arena;
  const auto slot = arena.add(DataType::bfloat16, 30011, 3);
  arena.allocate();
  test::fill_values(arena.host(slot), DataType::bfloat16, 30011, test::Values::normal, generator);
  arena.upload();
  const CopyTensor tensor{
      arena.device(slot), arena.device(slot), 30011, DataType::bfloat16, {1.0, 3.0}};
  CopyTable table(1);
  table.assign({&tensor, 1}, arena.stream());
  table.scale_copy(arena.stream());
  kernels::scale_copy(arena.host(slot), arena.host(slot), 30011, DataType::bfloat16, {1.0, 3.0});
  CHECK(arena.differences() == "");
}
