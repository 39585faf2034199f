#include "runtime/fusion.hpp"

#include <map>
#include <numeric>
#include <tuple>

#include "base/error.hpp"
#include "compress/offset_codec.hpp"
#include "runtime/part_rows.hpp"

namespace scalecom {
namespace {

BatchKind kind_of(const AgreedTensor& tensor) {
  switch (tensor.signature.kind) {
    case OperationKind::all_reduce:
      if (tensor.signature.op == ReduceOp::adasum) return BatchKind::adasum;
      return is_sparse(tensor.signature, tensor.step) ? BatchKind::sparse_all_reduce
                                                      : BatchKind::dense_all_reduce;
    case OperationKind::all_gather: return BatchKind::all_gather;
    case OperationKind::broadcast: return BatchKind::broadcast;
    case OperationKind::barrier: return BatchKind::barrier;
    case OperationKind::reduce_scatter: return BatchKind::reduce_scatter;
    case OperationKind::all_to_all: return BatchKind::all_to_all;
    case OperationKind::join: break;
  }
  SCALECOM_ASSERT(false, "operation kind of tensor " + tensor.name);
  return BatchKind::barrier;
}

Batch start_batch(const AgreedTensor& tensor, int world_size) {
  Batch batch;
  batch.kind = kind_of(tensor);
  batch.device = tensor.signature.device;
  if (batch.kind == BatchKind::dense_all_reduce || batch.kind == BatchKind::adasum ||
      batch.kind == BatchKind::reduce_scatter) {
    batch.dtype = tensor.signature.dtype;
    batch.op = tensor.signature.op == ReduceOp::average ? ReduceOp::sum : tensor.signature.op;
  }
  if (batch.kind == BatchKind::sparse_all_reduce) {
    const Compression& compression = tensor.signature.compression;
    batch.sparse = {compression.mode, static_cast<int>(tensor.step % world_size),
                    compression.values};
  }
  if (batch.kind == BatchKind::broadcast) batch.root = tensor.signature.root;
  return batch;
}

}  // namespace

const char* to_string(BatchKind kind) noexcept {
  switch (kind) {
    case BatchKind::dense_all_reduce: return "dense all-reduce";
    case BatchKind::sparse_all_reduce: return "ScaleCom all-reduce";
    case BatchKind::adasum: return "Adasum";
    case BatchKind::all_gather: return "all-gather";
    case BatchKind::broadcast: return "broadcast";
    case BatchKind::barrier: return "barrier";
    case BatchKind::reduce_scatter: return "reduce-scatter";
    case BatchKind::all_to_all: return "all-to-all";
  }
  return "unknown batch";
}

void settle_rates(Agreement& agreement) {
  for (AgreedTensor& tensor : agreement.tensors) {
    Compression& compression = tensor.signature.compression;
    if (is_sparse(tensor.signature, tensor.step)) {
      compression.rate = rate_at(compression, tensor.step);
    }
  }
}

std::int64_t fused_bytes(const AgreedTensor& tensor, int world_size) {
  const TensorSignature& signature = tensor.signature;
  const std::int64_t count = count_of(signature.shape);
  if (is_sparse(signature, tensor.step)) {
    return selected_count(count, signature.compression.rate) *
           size_of(signature.compression.values);
  }
  if (tensor.first_extents.empty()) return count * size_of(signature.dtype);
  const std::int64_t rows =
      std::reduce(tensor.first_extents.begin(), tensor.first_extents.end(), std::int64_t{0});
  return row_bytes(signature.dtype, signature.shape) *
         (signature.kind == OperationKind::all_to_all ? rows / world_size : rows);
}

std::vector<Batch> plan_batches(const Agreement& agreement, int world_size,
                                std::int64_t threshold_bytes) {
  std::vector<Batch> batches;
  // The batch that further tensors of a key join, as long as they fit.
  std::map<
      std::tuple<BatchKind, DeviceKind, DataType, ReduceOp, CompressionMode, int, DataType, int>,
      std::size_t>
      open;
  for (std::size_t place = 0; place < agreement.tensors.size(); ++place) {
    const AgreedTensor& tensor = agreement.tensors[place];
    Batch started = start_batch(tensor, world_size);
    const std::int64_t bytes = fused_bytes(tensor, world_size);
    const auto key = std::make_tuple(started.kind, started.device, started.dtype, started.op,
                                     started.sparse.mode, started.sparse.leader,
                                     started.sparse.values, started.root);
    if (const auto found = open.find(key); found != open.end()) {
      Batch& batch = batches[found->second];
      if (batch.bytes + bytes <= threshold_bytes) {
        batch.bytes += bytes;
        batch.tensors.push_back(place);
        continue;
      }
    }
    started.bytes = bytes;
    started.tensors.push_back(place);
    batches.push_back(std::move(started));
    open[key] = batches.size() - 1;
  }
  return batches;
}

}  // namespace scalecom
