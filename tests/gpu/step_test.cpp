// Every pass of a step on an accelerator against the CPU's kernels, to the bit.

#include <algorithm>
#include <limits>

#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"
#include "tests/support/step_on_host.hpp"

using namespace scalecom;
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
  bool has_mark;
  std::size_t residual, gradient, offsets, values, kept, nonfinite, result, reduced, mark;

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
  s.residual = arena.add(DataType::float32, s.count, misalignment());
  s.gradient = arena.add(s.dtype, s.count, misalignment());
  s.result = arena.add(s.dtype, s.count, misalignment());
  s.offsets = arena.add(DataType::int16, s.selected(), misalignment());
  s.values = arena.add(s.value_dtype, s.selected(), misalignment());
  s.kept = arena.add(DataType::float32, s.selected(), misalignment());
  s.reduced = arena.add(DataType::float32, s.selected(), misalignment());
  s.nonfinite = arena.add(DataType::int64, 1, 0);
  s.mark = arena.add(DataType::float32, 1, 0);
  s.has_mark = generator() % 4 > 0;
  return s;
}

/// Inputs on the host, offsets for the followers among them; the result has no zeros yet.
void fill(Arena& arena, const Sample& s, std::mt19937_64& generator) {
  constexpr Values kKinds[] = {Values::normal, Values::normal, Values::ties, Values::zeros,
                               Values::nonfinite};
  const Values kind = one_of(kKinds, generator);
  const Values finite = kind == Values::nonfinite ? Values::normal : kind;
  test::fill_values(arena.host(s.residual), DataType::float32, s.count, finite, generator);
  test::fill_values(arena.host(s.gradient), s.dtype, s.count, kind, generator);
  test::fill_values(arena.host(s.reduced), DataType::float32, s.selected(), kind, generator);
  for (std::int64_t j = 0; j < s.selected(); ++j) {
    const std::int64_t length = std::min(s.chunk, s.count - j * s.chunk);
    arena.host<std::uint16_t>(s.offsets)[j] =
        static_cast<std::uint16_t>(generator() % static_cast<std::uint64_t>(length));
  }
  *arena.host<std::int64_t>(s.nonfinite) = 1000;
  constexpr float kMarks[] = {0.0f, 0.0f,   -0.0f,
                              1.0f, 1e-40f, std::numeric_limits<float>::quiet_NaN()};
  *arena.host<float>(s.mark) = one_of(kMarks, generator);
}

/// The same tensor in either memory; `at(slot)` gives its pointer.
template <class At>
StepTensor tensor_of(const Sample& s, const At& at) {
  StepTensor tensor;
  tensor.residual = reinterpret_cast<float*>(at(s.residual));
  tensor.gradient = {at(s.gradient), s.dtype, s.count, s.prescale};
  tensor.beta = s.beta;
  tensor.chunk = s.chunk;
  tensor.offsets = reinterpret_cast<std::uint16_t*>(at(s.offsets));
  tensor.selected = {at(s.values), s.value_dtype, s.limit, reinterpret_cast<float*>(at(s.kept))};
  tensor.nonfinite = reinterpret_cast<std::int64_t*>(at(s.nonfinite));
  tensor.result = at(s.result);
  tensor.reduced = reinterpret_cast<const float*>(at(s.reduced));
  if (s.has_mark) tensor.mark = reinterpret_cast<const float*>(at(s.mark));
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
      // Tensors may share a counter.
      if (i > 0 && generator() % 2 == 0) samples[i].nonfinite = samples[i - 1].nonfinite;
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

constexpr std::size_t kTensors[] = {1, 2, 33, 90};

/// Calls body(world, table) for worlds of several sizes and seeds.
template <class Body>
void for_each_world(const Body& body) {
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    for (const std::size_t tensors : kTensors) {
      CAPTURE(seed, tensors);
      World world(tensors, seed * 1000 + tensors);
      const auto table = world.arena.accelerator().make_step_table(tensors, world.arena.stream());
      table->assign(world.on_device, world.arena.stream());
      body(world, *table);
    }
  }
}

}  // namespace

TEST_CASE("a leader's step equals the CPU's, the fill takes it back where a mark says so",
          "[light]") {
  for_each_world([](World& world, StepTable& table) {
    const auto stream = world.arena.stream();
    table.select_and_sweep(stream);
    world.on_each(test::select_on_host);
    CHECK(world.arena.differences() == "");
    table.fill_selected(stream);
    world.on_each(test::fill_on_host);
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("a step is taken back where no mark is zero, and its result is filled without a residual",
          "[light]") {
  for_each_world([](World& world, StepTable& table) {
    const auto stream = world.arena.stream();
    table.select_and_sweep(stream);
    world.on_each(test::select_on_host);
    table.take_back(stream);
    world.on_each(test::take_back_on_host);
    CHECK(world.arena.differences() == "");
    const auto forget = [](StepTensor& t) {
      t.residual = nullptr;
      t.gradient.data = nullptr;
    };
    std::for_each(world.on_device.begin(), world.on_device.end(), forget);
    world.on_each(forget);
    table.assign(world.on_device, stream);
    table.fill_selected(stream);
    world.on_each(test::fill_on_host);
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("a follower's sweep equals the CPU's", "[light]") {
  for_each_world([](World& world, StepTable& table) {
    table.gather_and_sweep(world.arena.stream());
    world.on_each(test::gather_on_host);
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("a range of tensors is led and all others follow, wherever it lies", "[light]") {
  std::size_t worlds = 0;
  for_each_world([&](World& world, StepTable& table) {
    const std::size_t tensors = world.samples.size();
    const TensorRange ranges[] = {{tensors / 3, tensors - tensors / 4},
                                  {0, tensors / 2},
                                  {0, 0},
                                  {tensors - 1, tensors},
                                  {0, tensors}};
    const TensorRange led = ranges[worlds++ % std::size(ranges)];
    CAPTURE(led.begin, led.end);
    const auto stream = world.arena.stream();
    table.select_and_sweep(stream, led);
    for (std::size_t i = led.begin; i < led.end; ++i) test::select_on_host(world.on_host[i]);
    CHECK(world.arena.differences() == "");
    table.gather_and_sweep(stream, led);
    for (std::size_t i = 0; i < tensors; ++i) {
      if (i < led.begin || i >= led.end) test::gather_on_host(world.on_host[i]);
    }
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("steps whose results take the gradients' place follow each other without the host",
          "[light]") {
  for_each_world([](World& world, StepTable& table) {
    const auto stream = world.arena.stream();
    const auto in_place = [](StepTensor& t) { t.result = const_cast<std::byte*>(t.gradient.data); };
    std::for_each(world.on_device.begin(), world.on_device.end(), in_place);
    world.on_each(in_place);
    test::finish(world.arena.accelerator(), stream);
    table.assign(world.on_device, stream);
    for (int step = 0; step < 2; ++step) {
      table.select_and_sweep(stream);
      table.fill_selected(stream);
      world.on_each(test::select_on_host);
      world.on_each(test::fill_on_host);
    }
    CHECK(world.arena.differences() == "");
  });
}

TEST_CASE("no tensor is taken back where none is marked", "[light]") {
  World world(33, 7);
  for (std::size_t i = 0; i < world.samples.size(); ++i) {
    *world.arena.host<float>(world.samples[i].mark) = 0.0f;
    const auto mark = world.samples[i].mark;
    world.on_device[i].mark = world.arena.device<float>(mark);
    world.on_host[i].mark = world.arena.host<float>(mark);
  }
  world.arena.upload();
  const auto stream = world.arena.stream();
  const auto table = world.arena.accelerator().make_step_table(33, world.arena.stream());
  table->assign(world.on_device, stream);
  table->gather_and_sweep(stream);
  world.on_each(test::gather_on_host);
  table->take_back(stream);
  CHECK(world.arena.differences() == "");
}

TEST_CASE("thousands of short tensors in a table are each found") {
  for (const std::uint64_t seed : test::choose_seeds(1)) {
    CAPTURE(seed);
    World world(2500, seed, 300);
    const auto stream = world.arena.stream();
    const auto table = world.arena.accelerator().make_step_table(2500, world.arena.stream());
    table->assign(world.on_device, stream);
    table->select_and_sweep(stream);
    table->fill_selected(stream);
    world.on_each(test::select_on_host);
    world.on_each(test::fill_on_host);
    CHECK(world.arena.differences() == "");
  }
}
