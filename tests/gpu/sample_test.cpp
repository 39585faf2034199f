// What a sampled step reads of its chunks on an accelerator, against the CPU.

#include <algorithm>
#include <cmath>

#include "tests/gpu/arena.hpp"
#include "tests/gpu/random_tensors.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/step_on_host.hpp"

using namespace scalecom;
using test::Arena;
using test::one_of;

namespace {

/// Places in the arena of a swept tensor, every second chunk of which is sampled.
struct Swept {
  DataType dtype = DataType::float32;
  std::int64_t count = 0;
  std::int64_t chunk = 1;
  float beta = 1.0f;
  std::size_t residual, gradient, offsets, kept, compensated, figures, sampled_offsets;

  std::int64_t all_chunks() const { return (count + chunk - 1) / chunk; }
  std::int64_t chunks() const { return (all_chunks() + 1) / 2; }
  std::int64_t elements() const {
    const std::int64_t last = 2 * (chunks() - 1) * chunk;
    return (chunks() - 1) * chunk + std::min(chunk, count - last);
  }
};

Swept make_swept(Arena& arena, std::mt19937_64& generator) {
  constexpr std::int64_t kChunks[] = {1, 3, 64, 100, 513, 4097, 65536};
  constexpr std::int64_t kCounts[] = {1, 2, 99, 1009, 30011, 131073};
  constexpr float kBetas[] = {1.0f, 0.3f, 0.1f};
  Swept s{};
  s.dtype = one_of(test::kFloats, generator);
  s.chunk = one_of(kChunks, generator);
  s.count = one_of(kCounts, generator);
  s.beta = one_of(kBetas, generator);
  const auto misalignment = [&] { return static_cast<int>(generator() % 3); };
  s.residual = arena.add(DataType::float32, s.count, misalignment());
  s.gradient = arena.add(s.dtype, s.count, misalignment());
  s.offsets = arena.add(DataType::int16, s.all_chunks(), misalignment());
  s.kept = arena.add(DataType::float32, s.all_chunks(), misalignment());
  s.compensated = arena.add(DataType::float32, s.elements() + 2, misalignment());
  s.figures = arena.add(DataType::float32, 2, 0);
  s.sampled_offsets = arena.add(DataType::int16, s.chunks(), misalignment());
  return s;
}

void fill(Arena& arena, const Swept& s, std::mt19937_64& generator) {
  constexpr test::Values kKinds[] = {test::Values::normal, test::Values::ties, test::Values::zeros};
  test::fill_values(arena.host(s.residual), DataType::float32, s.count, one_of(kKinds, generator),
                    generator);
  test::fill_values(arena.host(s.gradient), s.dtype, s.count, one_of(kKinds, generator), generator);
  test::fill_values(arena.host(s.kept), DataType::float32, s.all_chunks(), test::Values::normal,
                    generator);
  for (std::int64_t j = 0; j < s.all_chunks(); ++j) {
    const std::int64_t length = std::min(s.chunk, s.count - j * s.chunk);
    arena.host<std::uint16_t>(s.offsets)[j] =
        static_cast<std::uint16_t>(generator() % static_cast<std::uint64_t>(length));
  }
}

template <class At>
std::vector<SampledChunk> chunks_of(const Swept& s, const At& at) {
  std::vector<SampledChunk> chunks;
  for (std::int64_t j = 0; j < s.all_chunks(); j += 2) {
    chunks.push_back({reinterpret_cast<const float*>(at(s.residual)) + j * s.chunk,
                      at(s.gradient) + j * s.chunk * size_of(s.dtype),
                      reinterpret_cast<const std::uint16_t*>(at(s.offsets)) + j,
                      reinterpret_cast<const float*>(at(s.kept)) + j});
  }
  return chunks;
}

template <class At>
SampledTensor tensor_of(const Swept& s, std::span<const SampledChunk> chunks, const At& at) {
  return {s.dtype,
          0.3f,
          s.beta,
          s.chunk,
          s.elements(),
          chunks,
          reinterpret_cast<float*>(at(s.compensated)),
          reinterpret_cast<float*>(at(s.figures)),
          reinterpret_cast<std::uint16_t*>(at(s.sampled_offsets))};
}

/// The figures, sums in float64 of another order, are compared by their size; then made the same.
bool take_over_figures(Arena& arena, const Swept& s) {
  std::vector<float> device(2);
  const auto pinned = arena.accelerator().allocate_pinned(2 * sizeof(float));
  arena.accelerator().copy(pinned.get(), arena.device(s.figures), 2 * sizeof(float),
                           arena.stream());
  test::finish(arena.accelerator(), arena.stream());
  std::memcpy(device.data(), pinned.get(), 2 * sizeof(float));
  auto* const host = arena.host<float>(s.figures);
  bool is_near = true;
  for (std::size_t i = 0; i < 2; ++i) {
    is_near = is_near && (device[i] == host[i] || std::abs(device[i] - host[i]) <= 3e-7f * host[i]);
    host[i] = arena.host<float>(s.compensated)[static_cast<std::size_t>(s.elements()) + i] =
        device[i];
  }
  return is_near;
}

}  // namespace

TEST_CASE("a look at sampled chunks finds the CPU's values, offsets and figures", "[light]") {
  for (const std::uint64_t seed : test::choose_seeds(3)) {
    for (const std::size_t tensors : {1u, 5u, 40u}) {
      CAPTURE(seed, tensors);
      std::mt19937_64 generator(seed * 100 + tensors);
      Arena arena;
      std::vector<Swept> all;
      for (std::size_t i = 0; i < tensors; ++i) all.push_back(make_swept(arena, generator));
      arena.allocate();
      for (const Swept& s : all) fill(arena, s, generator);
      arena.upload();
      const auto on_device = [&](std::size_t slot) { return arena.device(slot); };
      const auto on_host = [&](std::size_t slot) { return arena.host(slot); };
      std::vector<std::vector<SampledChunk>> chunks;
      std::size_t chunks_max = 0;
      for (const Swept& s : all) {
        chunks.push_back(chunks_of(s, on_device));
        chunks_max += chunks.back().size();
      }
      std::vector<SampledTensor> rows;
      for (std::size_t i = 0; i < tensors; ++i) {
        rows.push_back(tensor_of(all[i], chunks[i], on_device));
      }
      const auto table = arena.accelerator().make_sample_table(tensors, chunks_max, arena.stream());
      table->assign(rows, arena.stream());
      table->look(arena.stream());
      for (const Swept& s : all) {
        const auto own = chunks_of(s, on_host);
        test::look_on_host(tensor_of(s, own, on_host));
        CHECK(take_over_figures(arena, s));
      }
      CHECK(arena.differences() == "");
    }
  }
}
