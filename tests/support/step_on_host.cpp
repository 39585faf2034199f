#include "tests/support/step_on_host.hpp"

#include <cmath>

#include "kernels/cpu/half.hpp"
#include "kernels/sampled_element.hpp"

namespace scalecom::test {
namespace {

void store(std::byte* data, DataType dtype, std::int64_t index, float value) {
  const auto place = static_cast<std::size_t>(index);
  switch (dtype) {
    case DataType::float16: return kernels::Float16Format::store(data, place, value);
    case DataType::bfloat16: return kernels::Bfloat16Format::store(data, place, value);
    default: return kernels::Float32Format::store(data, place, value);
  }
}

/// NaN is not zero.
bool is_set(const float* mark) { return !(*mark == 0.0f); }

}  // namespace

void select_on_host(const StepTensor& t) {
  *t.nonfinite +=
      kernels::select_and_sweep(t.residual, t.gradient, t.beta, t.chunk, t.offsets, t.selected);
}

void gather_on_host(const StepTensor& t) {
  *t.nonfinite +=
      kernels::gather_and_sweep(t.residual, t.gradient, t.beta, t.chunk, t.offsets, t.selected);
}

void take_back_on_host(const StepTensor& t) {
  if (t.mark != nullptr && !is_set(t.mark)) return;
  kernels::restore_selected(t.residual, t.gradient.count, t.chunk, t.offsets, t.selected.kept);
  kernels::undo_sweep(t.residual, t.gradient, t.beta);
}

void fill_on_host(const StepTensor& t) {
  if (t.mark == nullptr || !is_set(t.mark)) {
    kernels::fill_selected(t.result, t.gradient.dtype, t.gradient.count, t.chunk, t.offsets,
                           t.reduced);
    return;
  }
  if (t.residual != nullptr) take_back_on_host(t);
  for (std::int64_t i = 0; i < t.gradient.count; ++i) {
    store(t.result, t.gradient.dtype, i, std::numeric_limits<float>::quiet_NaN());
  }
}

void look_on_host(const SampledTensor& t) {
  double error = 0.0;
  double compensated = 0.0;
  double residual = 0.0;
  double gradient = 0.0;
  for (std::int64_t i = 0; i < t.elements; ++i) {
    const SampledChunk& chunk = t.chunks[static_cast<std::size_t>(i / t.chunk)];
    const std::int64_t place = i % t.chunk;
    float g = 0.0f;
    kernels::widen(&g, chunk.gradient + place * size_of(t.dtype), t.dtype, 1);
    g *= t.prescale;
    const float m = chunk.residual[place];
    const auto element = place == *chunk.offset
                             ? kernels::sent_element(m, *chunk.kept, g, static_cast<double>(t.beta))
                             : kernels::unsent_element(m, g, static_cast<double>(t.beta));
    error += element.error * element.error;
    compensated += element.compensated * element.compensated;
    residual += static_cast<double>(m) * static_cast<double>(m);
    gradient += static_cast<double>(g) * static_cast<double>(g);
    t.compensated[i] = static_cast<float>(element.compensated);
  }
  const auto ratio = [](double a, double b) {
    return a == 0.0 ? 0.0f : static_cast<float>(std::sqrt(a / b));
  };
  t.figures[0] = t.compensated[t.elements] = ratio(error, compensated);
  t.figures[1] = t.compensated[t.elements + 1] = ratio(residual, gradient);
  for (std::size_t i = 0; i < t.chunks.size(); ++i) t.offsets[i] = *t.chunks[i].offset;
}

void count_nonfinite_on_host(std::int64_t* found, const std::byte* values, DataType dtype,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    float value = 0.0f;
    kernels::widen(&value, values + i * size_of(dtype), dtype, 1);
    *found += std::isfinite(value) ? 0 : 1;
  }
}

void mark_on_host(std::byte* marks, DataType dtype, std::int64_t* counts, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    store(marks, dtype, i, counts[i] > 0 ? 1.0f : 0.0f);
    counts[i] = 0;
  }
}

void pack_offsets_on_host(std::byte* wire, std::int64_t wire_bytes, const std::uint16_t* offsets,
                          std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (wire_bytes == 1) {
      wire[i] = static_cast<std::byte>(offsets[i]);
    } else {
      reinterpret_cast<std::uint16_t*>(wire)[i] = offsets[i];
    }
  }
}

void unpack_offsets_on_host(std::uint16_t* offsets, const std::byte* wire, std::int64_t wire_bytes,
                            std::int64_t count, std::int64_t first) {
  for (std::int64_t i = 0; i < count; ++i) {
    offsets[(i + first) % count] = wire_bytes == 1
                                       ? static_cast<std::uint16_t>(wire[i])
                                       : reinterpret_cast<const std::uint16_t*>(wire)[i];
  }
}

}  // namespace scalecom::test
