#include "runtime/residual_delivery.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/select.hpp"

namespace scalecom {
namespace {

// Few enough for what a pass needs besides to stay in the cache.
constexpr std::int64_t kPieceElements = 1 << 13;

bool is_what_was_compressed(const TensorSignature& signature, const Shape& shape) {
  const bool is_float = signature.dtype == DataType::float32 ||
                        signature.dtype == DataType::float16 ||
                        signature.dtype == DataType::bfloat16;
  return is_float && signature.shape == shape &&
         (signature.op == ReduceOp::sum || signature.op == ReduceOp::average);
}

}  // namespace

double discount_of_delivery(const PendingTensor& tensor, const ResidualStore::Entry& residual) {
  const TensorSignature& signature = tensor.signature;
  if (is_compressed(signature) || residual.is_zero ||
      !is_what_was_compressed(signature, residual.shape)) {
    return 0.0;
  }
  return residual.beta > 0.0 ? residual.beta : tensor.beta;
}

Delivery deliver(const PendingTensor& tensor, const ResidualStore::Entry& residual, double beta,
                 float limit) {
  const DataType dtype = tensor.input.dtype;
  const std::int64_t count = tensor.input.count();
  Delivery delivery{std::vector<std::byte>(static_cast<std::size_t>(count * size_of(dtype))),
                    std::vector<float>(static_cast<std::size_t>(count)), beta};
  std::vector<float> kept(kPieceElements);
  // In chunks of one element the pass of a compressed step sends everything.
  const std::vector<std::uint16_t> offsets(kPieceElements, 0);
  for (std::int64_t first = 0; first < count; first += kPieceElements) {
    const std::int64_t piece = std::min(kPieceElements, count - first);
    const kernels::Gradient gradient{
        static_cast<const std::byte*>(tensor.input.data) + first * size_of(dtype), dtype, piece,
        static_cast<float>(tensor.signature.prescale)};
    float* const owed = delivery.rest.data() + first;
    std::transform(residual.values.begin() + first, residual.values.begin() + first + piece, owed,
                   [beta](float value) { return static_cast<float>(value / beta); });
    // Where the gradient is NaN or Inf it sends NaN.
    kernels::gather_and_sweep(owed, gradient, 1.0f, 1, offsets.data(),
                              {.values = delivery.input.data() + first * size_of(dtype),
                               .dtype = dtype,
                               .limit = limit,
                               .kept = kept.data()});
    std::transform(owed, owed + piece, owed,
                   [beta](float value) { return static_cast<float>(value * beta); });
  }
  if (dtype == DataType::float32) delivery.rest.clear();
  return delivery;
}

bool has_finite_output(const PendingTensor& tensor) {
  const DataType dtype = tensor.output.dtype;
  const std::int64_t count = tensor.output.count();
  std::vector<float> values(kPieceElements);
  for (std::int64_t first = 0; first < count; first += kPieceElements) {
    const std::int64_t piece = std::min(kPieceElements, count - first);
    kernels::widen(values.data(),
                   static_cast<const std::byte*>(tensor.output.data) + first * size_of(dtype),
                   dtype, piece);
    if (!std::all_of(values.begin(), values.begin() + piece,
                     [](float value) { return std::isfinite(value); })) {
      return false;
    }
  }
  return true;
}

}  // namespace scalecom
