#include "runtime/sparse_slot.hpp"

#include "runtime/tensor_memory.hpp"
#include "runtime/tensor_scales.hpp"

namespace scalecom {

ResidualStore::Entry& residual_for_step(ResidualStore& residuals, const PendingTensor& tensor,
                                        const TensorSignature& agreed) {
  ResidualStore::Entry& residual = residuals.acquire(tensor.name, agreed.shape);
  residual.filter_by(agreed.compression.beta);
  residual.is_zero = false;
  return residual;
}

SparseSlot sparse_slot(const PendingTensor& tensor, const TensorSignature& agreed, float* residual,
                       int size) {
  SparseSlot slot;
  slot.name = tensor.name;
  slot.gradient = input_of(tensor);
  slot.result = output_of(tensor);
  slot.residual = residual;
  slot.count = tensor.input.count();
  slot.dtype = agreed.dtype;
  slot.rate = agreed.compression.rate;
  slot.beta = agreed.compression.beta;
  slot.prescale = input_scale(agreed).multiply;
  slot.result_scale = output_scale(agreed, size);
  return slot;
}

}  // namespace scalecom
