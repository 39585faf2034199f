// Packing and unpacking on an accelerator against the CPU's scale_copy, to the bit.

#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"

using namespace scalecom;
using kernels::Scale;
using test::Arena;
using test::one_of;

namespace {

constexpr Scale kScales[] = {{1.0, 1.0}, {0.25, 1.0}, {1.0, 3.0},  {1.0, 4.0},  {0.1, 1.0},
                             {0.1, 3.0}, {1.5, 7.0},  {1.0, 1e30}, {-3.0, 1.0}, {1e30, 1.0}};
constexpr DataType kAll[] = {
    DataType::uint8,   DataType::int8,    DataType::int16,   DataType::int32,   DataType::int64,
    DataType::float16, DataType::float32, DataType::float64, DataType::boolean, DataType::bfloat16};
constexpr std::int64_t kCounts[] = {0, 1, 2, 7, 8, 15, 16, 17, 127, 1024, 10007, 131072};

/// Of any bits, so that integers take in their limits and floating-point values NaN and Inf.
void fill(std::byte* data, DataType dtype, std::int64_t count, std::mt19937_64& generator) {
  const bool is_narrow = dtype == DataType::float16 || dtype == DataType::bfloat16;
  if (is_narrow || dtype == DataType::float32) {
    return test::fill_values(data, dtype, count, test::Values::nonfinite, generator);
  }
  for (std::int64_t i = 0; i < count * size_of(dtype); ++i) {
    const auto bits = generator();
    data[i] = static_cast<std::byte>(dtype == DataType::boolean ? bits % 2 : bits);
  }
}

}  // namespace

TEST_CASE("a table of copies equals the CPU's, scaled, not aligned to vectors, of all dtypes",
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
      const DataType any = one_of(kAll, generator);
      const bool is_scalable = any != DataType::boolean || scale.is_identity();
      const DataType dtype = is_scalable ? any : DataType::int8;
      const std::int64_t count =
          one_of(kCounts, generator) + static_cast<std::int64_t>(generator() % 5);
      const auto source = arena.add(dtype, count, static_cast<int>(generator() % 17));
      const auto destination = arena.add(dtype, count, static_cast<int>(generator() % 17));
      copies.push_back({source, destination, count, dtype, scale});
    }
    arena.allocate();
    std::vector<CopyTensor> tensors;
    for (const Copy& copy : copies) {
      fill(arena.host(copy.source), copy.dtype, copy.count, generator);
      tensors.push_back({arena.device(copy.destination), arena.device(copy.source), copy.count,
                         copy.dtype, copy.scale});
    }
    arena.upload();
    const auto table = arena.accelerator().make_copy_table(tensors.size(), arena.stream());
    table->assign(tensors, arena.stream());
    table->scale_copy(arena.stream());
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
  const auto table = arena.accelerator().make_copy_table(1, arena.stream());
  table->assign({&tensor, 1}, arena.stream());
  table->scale_copy(arena.stream());
  kernels::scale_copy(arena.host(slot), arena.host(slot), 30011, DataType::bfloat16, {1.0, 3.0});
  CHECK(arena.differences() == "");
}

TEST_CASE("a table that is assigned anew copies the new tensors, and the same ones again",
          "[light]") {
  std::mt19937_64 generator(5);
  Arena arena;
  constexpr std::int64_t kCount = 1000;
  const auto source = arena.add(DataType::float32, kCount, 0);
  const std::size_t targets[] = {arena.add(DataType::float32, kCount, 0),
                                 arena.add(DataType::float32, kCount, 1)};
  arena.allocate();
  fill(arena.host(source), DataType::float32, kCount, generator);
  arena.upload();
  const auto table = arena.accelerator().make_copy_table(2, arena.stream());
  const auto copy = [&](const std::vector<std::size_t>& slots, const Scale& scale) {
    std::vector<CopyTensor> tensors;
    for (const std::size_t slot : slots) {
      tensors.push_back(
          {arena.device(slot), arena.device(source), kCount, DataType::float32, scale});
      kernels::scale_copy(arena.host(slot), arena.host(source), kCount, DataType::float32, scale);
    }
    table->assign(tensors, arena.stream());
    table->scale_copy(arena.stream());
    CHECK(arena.differences() == "");
  };
  copy({targets[0]}, {2.0, 1.0});
  copy({targets[0]}, {2.0, 1.0});
  copy({targets[0]}, {4.0, 1.0});
  copy({targets[0], targets[1]}, {4.0, 1.0});
  copy({}, {});
  copy({targets[1]}, {1.0, 1.0});
}
