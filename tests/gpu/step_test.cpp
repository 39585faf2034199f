// Every pass of a step on the device against the CPU's kernels, to the bit.

#include <algorithm>
#include <limits>

#include "kernels/cuda/step.hpp"
#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"

using namespace scalecom;
using kernels::cuda::GradientAfter;
using kernels::cuda::StepTable;
using kernels::cuda::StepTensor;
using test::Arena;
using test::one_of;
using test::Values;

namespace {

/// A tensor's slots in the arena.
struct Sample {
  DataType dtype;
  DataType value_dtype;
  std::int64_t count;
  std::int64_t chunk;
  float beta;
  float prescale;
  float limit;
  std::size_t memory, gradient, offsets, values, kept, nonfinite, result, reduced;

  std::int64_t selected() const { return (count + chunk - 1) / chunk; }
};

Sample make_sample(Arena& arena, std::mt19937_64& generator, std::int64_t count_max) {
  constexpr std::int64_t kChunks[] = {1,   2,   3,    4,    5,    7,    16,   25,   31,   32,
                                      63,  64,  65,   100,  127,  128,  129,  255,  400,  512,
                                      513, 777, 1000, 1024, 4095, 4096, 4097, 9999, 65536};
  constexpr std::int64_t kCounts[] = {0, 1, 2, 3, 63, 64, 100, 1009, 4096, 10000, 30011, 150001};
  constexpr float kBetas[] = {1.0f, 0.3f, 0.1f};
  constexpr float kScales[] = {1.0f, 1.0f, 0.25f, 0.3f};
  constexpr float kLimits[] = {std::numeric_limits<float>::infinity(), 65504.0f, 2.0f};
  Sample s{};
  s.dtype = one_of(test::kFloats, generator);
  s.value_dtype = one_of(test::kFloats, generator);
  s.chunk = one_of(kChunks, generator);
  s.count = one_of(kCounts, generator) + static_cast<std::int64_t>(generator() % 3) * s.chunk;
  s.count = std::min(s.count, count_max);
  s.beta = one_of(kBetas, generator);
  s.prescale = one_of(kScales, generator);
  s.limit = one_of(kLimits, generator);
  // Mostly aligned alike, as frameworks have it, and else in every way.
  const auto misalignment = [&] {
    return generator() % 2 == 0 ? 0 : static_cast<int>(generator() % 8);
  };
  s.memory = arena.add(DataType::float32, s.count, misalignment());
  s.gradient = arena.add(s.dtype, s.count, misalignment());
  s.result = arena.add(s.dtype, s.count, misalignment());
  s.offsets = arena.add(DataType::int16, s.selected(), misalignment());
  s.values = arena.add(s.value_dtype, s.selected(), misalignment());
  s.kept = arena.add(DataType::float32, s.selected(), misalignment());
  s.reduced = arena.add(DataType::float32, s.selected(), misalignment());
  s.nonfinite = arena.add(DataType::int64, 1, 0);
  return s;
}

/// Inputs on the host, offsets for the followers among them; the result has no zeros yet.
void fill(Arena& arena, const Sample& s, std::mt19937_64& generator) {
  constexpr Values kKinds[] = {Values::normal, Values::normal, Values::ties, Values::zeros,
                               Values::nonfinite};
  const Values kind = one_of(kKinds, generator);
  const Values finite = kind == Values::nonfinite ? Values::normal : kind;
  test::fill_values(arena.host(s.memory), DataType::float32, s.count, finite, generator);
  test::fill_values(arena.host(s.gradient), s.dtype, s.count, kind, generator);
  test::fill_values(arena.host(s.reduced), DataType::float32, s.selected(), kind, generator);
  for (std::int64_t j = 0; j < s.selected(); ++j) {
    const std::int64_t length = std::min(s.chunk, s.count - j * s.chunk);
    arena.host<std::uint16_t>(s.offsets)[j] =
        static_cast<std::uint16_t>(generator() % static_cast<std::uint64_t>(length));
  }
  *arena.host<std::int64_t>(s.nonfinite) = 1000;
}

/// The same tensor in either memory; `at(slot)` gives its pointer.
template <class At>
StepTensor tensor_of(const Sample& s, const At& at) {
  StepTensor tensor;
  tensor.memory = reinterpret_cast<float*>(at(s.memory));
  tensor.gradient = {at(s.gradient), s.dtype, s.count, s.prescale};
  tensor.beta = s.beta;
  tensor.chunk = s.chunk;
  tensor.offsets = reinterpret_cast<std::uint16_t*>(at(s.offsets));
  tensor.selected = {at(s.values), s.value_dtype, s.limit, reinterpret_cast<float*>(at(s.kept))};
  tensor.nonfinite = reinterpret_cast<std::int64_t*>(at(s.nonfinite));
  tensor.result = at(s.result);
  tensor.reduced = reinterpret_cast<const float*>(at(s.reduced));
  return tensor;
}

struct World {
  Arena arena;
  std::vector<Sample> samples;
  std::vector<StepTensor> on_host;
  std::vector<StepTensor> on_device;

  World(std::size_t tensors, std::uint64_t seed, std::int64_t count_max = std::int64_t{1} << 20) {
    std::mt19937_64 generator(seed);
    for (std::size_t i = 0; i < tensors; ++i) {
      samples.push_back(make_sample(arena, generator, count_max));
    }
    arena.allocate();
    for (const Sample& s : samples) {
      fill(arena, s, generator);
      on_host.push_back(tensor_of(s, [&](std::size_t slot) { return arena.host(slot); }));
      on_device.push_back(tensor_of(s, [&](std::size_t slot) { return arena.device(slot); }));
    }
    arena.upload();
  }

  /// Runs `pass` for each tensor on the host.
  template <class Pass>
  void on_each(const Pass& pass) {
    for (StepTensor& tensor : on_host) pass(tensor);
  }
};

void select_on_host(StepTensor& t) {
  *t.nonfinite +=
      kernels::select_and_sweep(t.memory, t.gradient, t.beta, t.chunk, t.offsets, t.selected);
}

void gather_on_host(StepTensor& t) {
  *t.nonfinite +=
      kernels::gather_and_sweep(t.memory, t.gradient, t.beta, t.chunk, t.offsets, t.selected);
}

void zero_gradient(StepTensor& t) {
  std::memset(const_cast<std::byte*>(t.gradient.data), 0,
              static_cast<std::size_t>(t.gradient.count * size_of(t.gradient.dtype)));
}

void fill_on_host(StepTensor& t) {
  kernels::fill_selected(t.result, t.gradient.dtype, t.gradient.count, t.chunk, t.offsets,
                         t.reduced);
}

constexpr std::size_t kTensors[] = {1, 2, 33, 90};

/// Calls body(world, table) for worlds of several sizes and seeds.
template <class Body>
void for_each_world(const Body& body) {
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    for (const std::size_t tensors : kTensors) {
      CAPTURE(seed, tensors);
      World world(tensors, seed * 1000 + tensors);
      StepTable table(tensors);
      table.assign(world.on_device, world.arena.stream());
      body(world, table);
    }
  }
}

}  // namespace

TEST_CASE("a leader's step on the device equals the CPU's, and can be taken back", "[light]") {
  for_each_world([](World& world, StepTable& table) {
    const auto stream = world.arena.stream();
    table.select_and_sweep(GradientAfter::unchanged, stream);
    world.on_each(select_on_host);
    CHECK(world.arena.differences() == "");
    table.fill_selected(stream);
    world.on_each(fill_on_host);
    CHECK(world.arena.differences() == "");
    table.restore_selected(stream);
    world.on_each([](StepTensor& t) {
      kernels::restore_selected(t.memory, t.gradient.count, t.chunk, t.offsets, t.selected.kept);
    });
    CHECK(world.arena.differences() == "");
    table.undo_sweep(stream);
    world.on_each([](StepTensor& t) { kernels::undo_sweep(t.memory, t.gradient, t.beta); });
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("a follower's sweep on the device equals the CPU's", "[light]") {
  for_each_world([](World& world, StepTable& table) {
    table.gather_and_sweep(GradientAfter::unchanged, world.arena.stream());
    world.on_each(gather_on_host);
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("sweeps that leave zeros in the gradient are ready for a scatter of the result",
          "[light]") {
  for_each_world([](World& world, StepTable& table) {
    const auto stream = world.arena.stream();
    // The result takes the gradient's place.
    const auto in_place = [](StepTensor& t) { t.result = const_cast<std::byte*>(t.gradient.data); };
    std::for_each(world.on_device.begin(), world.on_device.end(), in_place);
    world.on_each(in_place);
    table.assign(world.on_device, stream);
    table.select_and_sweep(GradientAfter::zero, stream);
    world.on_each(select_on_host);
    world.on_each(zero_gradient);
    CHECK(world.arena.differences() == "");
    table.scatter_selected(stream);
    world.on_each(fill_on_host);
    CHECK(world.arena.differences() == "");
    table.gather_and_sweep(GradientAfter::zero, stream);
    world.on_each(gather_on_host);
    world.on_each(zero_gradient);
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("thousands of short tensors in a table are each found") {
  for (const std::uint64_t seed : test::choose_seeds(1)) {
    CAPTURE(seed);
    World world(2500, seed, 300);
    const auto stream = world.arena.stream();
    StepTable table(2500);
    table.assign(world.on_device, stream);
    table.select_and_sweep(GradientAfter::unchanged, stream);
    table.fill_selected(stream);
    world.on_each(select_on_host);
    world.on_each(fill_on_host);
    CHECK(world.arena.differences() == "");
  }
}

TEST_CASE("a tensor of more than 2^31 elements is worked on to its end") {
  constexpr std::int64_t kCount = (std::int64_t{1} << 31) + 1003;
  constexpr std::int64_t kChunk = 1000;
  constexpr std::int64_t kSelected = (kCount + kChunk - 1) / kChunk;
  const auto memory = device::cuda::allocate_device(kCount * 4);
  const auto gradient = device::cuda::allocate_device(kCount * 2);
  const auto out = device::cuda::allocate_device(kSelected * 16 + 8);
  const device::cuda::Stream stream;
  device::cuda::set_bytes(memory.get(), 0, kCount * 4, stream.handle());
  device::cuda::set_bytes(gradient.get(), 0, kCount * 2, stream.handle());
  device::cuda::set_bytes(out.get(), 0, kSelected * 16 + 8, stream.handle());
  const std::uint16_t one = 0x3F80;  // bfloat16
  device::cuda::copy_to_device(gradient.get() + (kCount - 2) * 2, &one, 2, stream.handle());
  StepTensor tensor;
  tensor.memory = reinterpret_cast<float*>(memory.get());
  tensor.gradient = {gradient.get(), DataType::bfloat16, kCount, 1.0f};
  tensor.beta = 0.5f;
  tensor.chunk = kChunk;
  tensor.nonfinite = reinterpret_cast<std::int64_t*>(out.get());
  tensor.selected.values = out.get() + 8;
  tensor.selected.kept = reinterpret_cast<float*>(out.get() + 8 + kSelected * 4);
  tensor.offsets = reinterpret_cast<std::uint16_t*>(out.get() + 8 + kSelected * 8);
  StepTable table(1);
  table.assign({&tensor, 1}, stream.handle());
  table.select_and_sweep(GradientAfter::zero, stream.handle());
  float value = 0.0f;
  float left = 0.0f;
  std::uint16_t offset = 0;
  std::uint16_t zero = 1;
  device::cuda::copy_to_host(&value, tensor.selected.values + (kSelected - 1) * 4, 4,
                             stream.handle());
  device::cuda::copy_to_host(&left, tensor.memory + kCount - 2, 4, stream.handle());
  device::cuda::copy_to_host(&offset, tensor.offsets + kSelected - 1, 2, stream.handle());
  device::cuda::copy_to_host(&zero, gradient.get() + (kCount - 2) * 2, 2, stream.handle());
  stream.synchronize();
  CHECK(value == 1.0f);
  CHECK(left == 0.0f);
  CHECK(offset == (kCount - 2) % kChunk);
  CHECK(zero == 0);
}

TEST_CASE("widened values equal the CPU's", "[light]") {
  for (const DataType dtype : test::kFloats) {
    std::mt19937_64 generator(11);
    Arena arena;
    const std::size_t source = arena.add(dtype, 70001, 1);
    const std::size_t wide = arena.add(DataType::float32, 70001, 0);
    arena.allocate();
    test::fill_values(arena.host(source), dtype, 70001, Values::nonfinite, generator);
    arena.upload();
    kernels::cuda::widen(arena.device<float>(wide), arena.device(source), dtype, 70001,
                         arena.stream());
    kernels::widen(arena.host<float>(wide), arena.host(source), dtype, 70001);
    CHECK(arena.differences() == "");
  }
}
