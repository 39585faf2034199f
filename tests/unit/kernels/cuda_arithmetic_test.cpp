// The CUDA kernels' index arithmetic and element step, which are plain C++, against the CPU's
// kernels: what a device does, lane by lane, without one.

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/half.hpp"
#include "kernels/cuda/element.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/scale_element.hpp"
#include "kernels/reduce.hpp"
#include "kernels/scale_method.hpp"
#include "kernels/select.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/kernels/samples.hpp"

using namespace scalecom;
using test::RawTensor;
namespace cuda = kernels::cuda;

namespace {

constexpr std::int32_t kChunks[] = {1,   2,   3,   4,    5,    7,    16,   25,
                                    31,  63,  64,  65,   99,   100,  127,  128,
                                    129, 400, 511, 1000, 1024, 4096, 4099, 65536};

float widened(const RawTensor& tensor, DataType dtype, std::int64_t index) {
  return static_cast<float>(floating_of(tensor, dtype, static_cast<std::size_t>(index)));
}

float rounded(float value, DataType dtype) {
  switch (dtype) {
    case DataType::float16: return kernels::float_of_half(kernels::half_of_float(value));
    case DataType::bfloat16: return kernels::float_of_bfloat(kernels::bfloat_of_float(value));
    default: return value;
  }
}

/// Calls visit(part, place, is_vector) for all elements in the order of units, lanes and their
/// vectors and edges.
template <class Visit>
void walk(std::int64_t count, std::int32_t chunk, std::int32_t team_log2, std::int32_t shift,
          const Visit& visit) {
  const std::int32_t lanes_log2 = cuda::lanes_log2_for(chunk, team_log2);
  const std::int64_t units = cuda::units_of(cuda::chunks_of(count, chunk), team_log2, lanes_log2);
  for (std::int64_t unit = 0; unit < units; ++unit) {
    for (std::int32_t lane = 0; lane < (1 << team_log2); ++lane) {
      const auto part = cuda::lane_part(unit, lane, team_log2, lanes_log2, chunk, count);
      const auto run_shift = static_cast<std::int32_t>((part.begin + shift) % 4);
      const cuda::Run run(part.length, run_shift);
      for (std::int32_t v = part.member; v < run.vectors; v += 1 << lanes_log2) {
        for (std::int32_t e = 0; e < 4; ++e) visit(part, run.vector_place(v) + e, e == 0);
      }
      for (std::int32_t edge = part.member; edge < run.edges; edge += 1 << lanes_log2) {
        visit(part, run.edge_place(edge), false);
      }
    }
  }
}

struct Sample {
  DataType dtype;
  DataType value_dtype;
  std::int64_t count;
  std::int32_t chunk;
  float beta;
  float prescale;
  float limit;
};

struct Outcome {
  std::vector<float> residual;
  std::vector<std::uint16_t> offsets;
  RawTensor values;
  std::vector<float> kept;
  std::int64_t nonfinite = 0;

  Outcome(const Sample& sample, const std::vector<float>& before)
      : residual(before),
        offsets(static_cast<std::size_t>(cuda::chunks_of(sample.count, sample.chunk))),
        values(sample.value_dtype, static_cast<std::int64_t>(offsets.size()), 0),
        kept(offsets.size()) {}
};

/// The CUDA kernels' step, one lane after the other.
Outcome device_step(const Sample& sample, const std::vector<float>& before,
                    const RawTensor& gradient) {
  Outcome outcome(sample, before);
  const bool is_long = sample.chunk > cuda::kWarpChunkMax;
  std::vector<cuda::Candidate> best(outcome.offsets.size());
  const auto g_at = [&](std::int64_t index) {
    return sample.prescale * widened(gradient, sample.dtype, index);
  };
  walk(sample.count, sample.chunk, is_long ? cuda::kBlockLanesLog2 : cuda::kWarpLanesLog2, 1,
       [&](const cuda::LanePart& part, std::int32_t place, bool) {
         const std::int64_t index = part.begin + place;
         float& m = outcome.residual[static_cast<std::size_t>(index)];
         const auto swept = cuda::sweep_element(m, g_at(index), sample.beta);
         m = swept.residual;
         outcome.nonfinite += swept.bits > kernels::kLargestFinite ? 1 : 0;
         const cuda::Candidate candidate{swept.bits, place};
         cuda::Candidate& so_far = best[static_cast<std::size_t>(part.chunk)];
         if (so_far.is_beaten_by(candidate)) so_far = candidate;
       });
  for (std::size_t j = 0; j < best.size(); ++j) {
    const std::int64_t index = static_cast<std::int64_t>(j) * sample.chunk + best[j].place;
    float& m = outcome.residual[static_cast<std::size_t>(index)];
    const auto taken =
        cuda::take_element(m, g_at(index), sample.beta, sample.limit,
                           [&](float value) { return rounded(value, sample.value_dtype); });
    outcome.offsets[j] = static_cast<std::uint16_t>(best[j].place);
    outcome.kept[j] = m;
    set_floating(outcome.values, sample.value_dtype, j, taken.sent);
    m = taken.residual;
  }
  return outcome;
}

Outcome cpu_step(const Sample& sample, const std::vector<float>& before,
                 const RawTensor& gradient) {
  Outcome outcome(sample, before);
  outcome.nonfinite = kernels::select_and_sweep(
      outcome.residual.data(), {gradient.data(), sample.dtype, sample.count, sample.prescale},
      sample.beta, sample.chunk, outcome.offsets.data(),
      {outcome.values.data(), sample.value_dtype, sample.limit, outcome.kept.data()});
  return outcome;
}

bool are_same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y) ||
           (std::isnan(x) && std::isnan(y));
  });
}

std::string differences(const Sample& sample, const std::vector<float>& before,
                        const RawTensor& gradient) {
  const Outcome device = device_step(sample, before, gradient);
  const Outcome cpu = cpu_step(sample, before, gradient);
  std::string wrong;
  if (!are_same(device.residual, cpu.residual)) wrong += " residual";
  if (device.offsets != cpu.offsets) wrong += " offsets";
  if (!are_same(device.kept, cpu.kept)) wrong += " kept";
  if (device.nonfinite != cpu.nonfinite) wrong += " non-finite";
  for (std::size_t j = 0; j < cpu.offsets.size(); ++j) {
    const float a = widened(device.values, sample.value_dtype, static_cast<std::int64_t>(j));
    const float b = widened(cpu.values, sample.value_dtype, static_cast<std::int64_t>(j));
    if (!(a == b || (std::isnan(a) && std::isnan(b)))) return wrong + " values";
  }
  return wrong;
}

/// Elements of any bits, scaled as CUDA does and as the CPU does.
template <class T>
void check_in_double(DataType dtype, kernels::Scale scale, std::mt19937& generator) {
  constexpr std::size_t kCount = 3000;
  RawTensor source(dtype, kCount, 0);
  RawTensor expected(dtype, kCount, 0);
  for (std::size_t i = 0; i < kCount * sizeof(T); ++i) {
    source.data()[i] = static_cast<std::byte>(generator());
  }
  kernels::scale_copy(expected.data(), source.data(), kCount, dtype, scale);
  const kernels::Scale simple = kernels::choose_scale_method(dtype, scale).scale;
  const cuda::Scaling scaling{cuda::ScaleStep::in_double, 1.0f, simple.multiply, simple.divide};
  for (std::size_t i = 0; i < kCount; ++i) {
    const T got = cuda::scale_in_double(source.get<T>(i), scaling);
    const T want = expected.get<T>(i);
    CAPTURE(to_string(dtype), scale.multiply, scale.divide, i, source.get<T>(i));
    REQUIRE((std::memcmp(&got, &want, sizeof(T)) == 0 || (got != got && want != want)));
  }
}

}  // namespace

TEST_CASE("a CUDA team visits every element once, in 16-byte steps of aligned memory") {
  for (const std::int32_t chunk : kChunks) {
    const std::int32_t team =
        chunk > cuda::kWarpChunkMax ? cuda::kBlockLanesLog2 : cuda::kWarpLanesLog2;
    for (const std::int64_t count :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{3}, std::int64_t{chunk} - 1,
          std::int64_t{chunk} * 3, std::int64_t{chunk} * 37 + 5}) {
      for (std::int32_t shift = 0; shift < 4; ++shift) {
        CAPTURE(chunk, count, shift);
        std::vector<int> visits(static_cast<std::size_t>(count));
        bool is_aligned = true;
        walk(count, chunk, team, shift,
             [&](const cuda::LanePart& part, std::int32_t place, bool starts_vector) {
               ++visits.at(static_cast<std::size_t>(part.begin + place));
               is_aligned &= !starts_vector || (part.begin + place + shift) % 4 == 0;
             });
        CHECK(is_aligned);
        CHECK(std::all_of(visits.begin(), visits.end(), [](int n) { return n == 1; }));
      }
    }
  }
}

TEST_CASE("a lane of a CUDA warp has all of a usual chunk in flight") {
  for (const std::int32_t chunk : {64, 100, 128, 400}) {
    const std::int32_t lanes = 1 << cuda::lanes_log2_for(chunk, cuda::kWarpLanesLog2);
    CHECK(lanes * cuda::kVectorsInFlight * cuda::kVectorElements >= chunk);
    CHECK((lanes / 2) * cuda::kVectorsInFlight * cuda::kVectorElements < chunk);
  }
}

TEST_CASE("the CUDA step equals the CPU's to the bit, NaN and ties included") {
  const unsigned seed = 23;
  std::mt19937 generator(seed);
  for (const DataType dtype : {DataType::float32, DataType::float16, DataType::bfloat16}) {
    for (const DataType value_dtype : {DataType::float32, DataType::float16, DataType::bfloat16}) {
      for (const std::int32_t chunk : kChunks) {
        for (const int kind : {0, 1, 2}) {  // normal, ties, non-finite
          const std::int64_t count = chunk > 4096 ? chunk + 77 : chunk * 3 + generator() % 50;
          const Sample sample{dtype,
                              value_dtype,
                              count,
                              chunk,
                              kind == 0 ? 0.1f : 1.0f,
                              chunk % 3 == 0 ? 0.3f : 1.0f,
                              chunk % 2 == 0 ? 2.0f : 1e9f};
          RawTensor gradient(dtype, count, 0);
          fill_floating(gradient, dtype, count, generator, kind == 2 ? 30 : 0);
          std::vector<float> residual(static_cast<std::size_t>(count));
          std::normal_distribution<float> normal;
          for (std::size_t i = 0; i < residual.size(); ++i) {
            residual[i] =
                kind == 1 ? static_cast<float>(generator() % 3) - 1.0f : normal(generator);
            if (kind == 1) set_floating(gradient, dtype, i, generator() % 2 == 0 ? 2.0 : -2.0);
          }
          CAPTURE(seed, to_string(dtype), to_string(value_dtype), chunk, count, kind);
          CHECK(differences(sample, residual, gradient) == "");
        }
      }
    }
  }
}

TEST_CASE("the CUDA undo of a sweep equals the CPU's to the bit") {
  std::mt19937 generator(29);
  RawTensor gradient(DataType::float32, 5000, 0);
  fill_floating(gradient, DataType::float32, 5000, generator, 40);
  std::vector<float> residual(5000);
  for (float& m : residual) m = static_cast<float>(generator() % 1000) / 7.0f;
  std::vector<float> expected = residual;
  kernels::undo_sweep(expected.data(), {gradient.data(), DataType::float32, 5000, 0.7f}, 0.3f);
  for (std::size_t i = 0; i < residual.size(); ++i) {
    residual[i] = cuda::undo_element(residual[i], 0.7f * gradient.get<float>(i), 0.3f);
  }
  CHECK(are_same(residual, expected));
}

TEST_CASE("a place's chunk is found without a division, for every chunk length") {
  for (std::int32_t chunk = 1; chunk <= 65536; ++chunk) {
    const auto inverse = static_cast<float>(1.0 / chunk);
    bool is_right = true;
    for (std::int32_t multiple = 0; multiple < (1 << 18); multiple += chunk) {
      is_right &= cuda::chunk_at(multiple, inverse) == multiple / chunk &&
                  cuda::chunk_at(multiple + chunk - 1, inverse) == multiple / chunk;
    }
    CAPTURE(chunk);
    REQUIRE(is_right);
  }
}

TEST_CASE("an element's chunk is found without a division, in tensors of any size") {
  std::mt19937_64 generator(37);
  for (std::int32_t chunk = 1; chunk <= 65536; ++chunk) {
    bool is_right = true;
    for (int bits = 1; bits <= 50; ++bits) {
      const auto some = static_cast<std::int64_t>(generator() >> (64 - bits));
      for (const std::int64_t place :
           {some, some / chunk * chunk, some / chunk * chunk + chunk - 1}) {
        const cuda::ChunkPlace found = cuda::chunk_place(place, chunk, 1.0 / chunk);
        is_right &= found.chunk == place / chunk && found.place == place % chunk;
      }
    }
    CAPTURE(chunk);
    REQUIRE(is_right);
  }
}

TEST_CASE("four CUDA elements at once are swept as one by one") {
  std::mt19937 generator(31);
  const float kInfinity = std::numeric_limits<float>::infinity();
  const float specials[] = {1.0f, -1.0f, 0.0f, -0.0f, 3e38f, -3e38f, kInfinity, std::nanf("")};
  for (int round = 0; round < 20000; ++round) {
    cuda::Quad m;
    cuda::Quad g;
    for (int i = 0; i < 4; ++i) {
      m.at[i] = specials[generator() % 6];
      g.at[i] = specials[generator() % (round % 2 == 0 ? 4 : 8)];
    }
    const cuda::SweptQuad swept = cuda::sweep_quad(m, g, 0.3f);
    cuda::Candidate best;
    std::int32_t nonfinite = 0;
    for (int i = 0; i < 4; ++i) {
      const auto one = cuda::sweep_element(m.at[i], g.at[i], 0.3f);
      const cuda::Candidate candidate{one.bits, i};
      if (best.is_beaten_by(candidate)) best = candidate;
      nonfinite += one.bits > kernels::kLargestFinite ? 1 : 0;
      REQUIRE(std::bit_cast<int>(one.residual) == std::bit_cast<int>(swept.residual.at[i]));
    }
    REQUIRE(swept.bits == best.bits);
    REQUIRE(swept.largest == best.place);
    REQUIRE(swept.nonfinite == nonfinite);
  }
}

TEST_CASE("a lane that is asked for its element has worked on it") {
  for (std::int32_t length = 0; length < 70; ++length) {
    for (std::int32_t shift = 0; shift < 4; ++shift) {
      for (std::int32_t lanes_log2 = 0; lanes_log2 <= 5; ++lanes_log2) {
        const cuda::Run run(length, shift);
        const std::int32_t lanes = 1 << lanes_log2;
        for (std::int32_t v = 0; v < run.vectors; ++v) {
          for (std::int32_t e = 0; e < 4; ++e) {
            REQUIRE(run.member_at(run.vector_place(v) + e, lanes_log2) == v % lanes);
          }
        }
        for (std::int32_t edge = 0; edge < run.edges; ++edge) {
          REQUIRE(run.member_at(run.edge_place(edge), lanes_log2) == edge % lanes);
        }
      }
    }
  }
}

TEST_CASE("the vectors of a CUDA copy cover its bytes once, and only outer ones are not whole") {
  constexpr std::int32_t kVectors = 4;
  for (std::int32_t shift = 0; shift < 16; ++shift) {
    for (std::int64_t bytes = 0; bytes < 300; ++bytes) {
      const cuda::CopyLayout layout{shift, bytes};
      CAPTURE(shift, bytes);
      std::int64_t covered = 0;
      int parts = 0;
      for (std::int64_t u = 0; u * kVectors < layout.vectors(); ++u) {
        const cuda::CopyUnit unit(layout, u, kVectors);
        for (std::int32_t v = 0; v < kVectors; ++v) {
          const std::int64_t begin = std::max(unit.begin + v * 16, std::int64_t{0});
          const std::int64_t end = std::min(unit.begin + v * 16 + 16, bytes);
          REQUIRE((unit.is_whole(v) || unit.is_part(v)) == (begin < end));
          REQUIRE(!(unit.is_whole(v) && unit.is_part(v)));
          if (begin >= end) continue;
          REQUIRE(begin == covered);
          REQUIRE(unit.is_whole(v) == (end - begin == 16));
          if (unit.is_whole(v)) REQUIRE((begin + shift) % 16 == 0);
          parts += unit.is_part(v) ? 1 : 0;
          covered = end;
        }
      }
      REQUIRE(covered == bytes);
      REQUIRE(parts <= 2);
    }
  }
}

TEST_CASE("an element scaled for CUDA equals the CPU's to the bit") {
  std::mt19937 generator(37);
  constexpr std::int64_t kCount = 4000;
  for (const DataType dtype : {DataType::float32, DataType::float16, DataType::bfloat16}) {
    RawTensor source(dtype, kCount, 0);
    RawTensor expected(dtype, kCount, 0);
    RawTensor got(dtype, kCount, 0);
    fill_floating(source, dtype, kCount, generator, 20);
    const cuda::Scaling scaling{cuda::ScaleStep::in_double, 1.0f, 0.1, 3.0};
    kernels::scale_copy(expected.data(), source.data(), kCount, dtype, {0.1, 3.0});
    for (std::int64_t i = 0; i < kCount; ++i) {
      const float value = widened(source, dtype, i);
      const float scaled =
          dtype == DataType::float32
              ? cuda::scale_element<cuda::ScaleStep::in_double, true>(value, scaling)
              : cuda::scale_element<cuda::ScaleStep::in_double, false>(value, scaling);
      set_floating(got, dtype, static_cast<std::size_t>(i), scaled);
      const float a = widened(got, dtype, i);
      const float b = widened(expected, dtype, i);
      REQUIRE((std::bit_cast<int>(a) == std::bit_cast<int>(b) || (std::isnan(a) && std::isnan(b))));
    }
  }
}

TEST_CASE("float64 and integers scaled for CUDA equal the CPU's to the bit, limits included") {
  std::mt19937 generator(41);
  for (const kernels::Scale scale : {kernels::Scale{1.0, 3.0}, kernels::Scale{0.25, 1.0},
                                     kernels::Scale{-1e30, 1.0}, kernels::Scale{0.1, 7.0}}) {
    check_in_double<double>(DataType::float64, scale, generator);
    check_in_double<std::uint8_t>(DataType::uint8, scale, generator);
    check_in_double<std::int8_t>(DataType::int8, scale, generator);
    check_in_double<std::int16_t>(DataType::int16, scale, generator);
    check_in_double<std::int32_t>(DataType::int32, scale, generator);
    check_in_double<std::int64_t>(DataType::int64, scale, generator);
  }
}
