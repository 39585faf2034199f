#include "bindings/c/dlpack.hpp"

#include <algorithm>

namespace scalecom::dlpack {
namespace {

// DLPack's numbers.
enum TypeCode : std::uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
constexpr std::int32_t kHostMemory = 1;
constexpr std::int32_t kCudaMemory = 2;

std::optional<DataType> dtype_of(const BorrowedTensor& tensor) {
  if (tensor.type_lanes != 1) return std::nullopt;
  switch (tensor.type_code << 8 | tensor.type_bits) {
    case kUint << 8 | 8: return DataType::uint8;
    case kInt << 8 | 8: return DataType::int8;
    case kInt << 8 | 16: return DataType::int16;
    case kInt << 8 | 32: return DataType::int32;
    case kInt << 8 | 64: return DataType::int64;
    case kFloat << 8 | 16: return DataType::float16;
    case kFloat << 8 | 32: return DataType::float32;
    case kFloat << 8 | 64: return DataType::float64;
    case kBfloat << 8 | 16: return DataType::bfloat16;
    case kBool << 8 | 8: return DataType::boolean;
    default: return std::nullopt;
  }
}

// Row-major without gaps; the stride of an extent of 1 says nothing, and an empty tensor's none.
bool is_contiguous(const BorrowedTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  std::int64_t count = 1;
  bool has_gaps = false;
  for (std::int32_t i = tensor.dimensions - 1; i >= 0; --i) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != count) has_gaps = true;
    count *= tensor.shape[i];
  }
  return !has_gaps;
}

bool is_empty(const BorrowedTensor& tensor) {
  return std::count(tensor.shape, tensor.shape + tensor.dimensions, 0) > 0;
}

// Device and stream of a tensor; false: of no device that this library knows.
bool find_place(const ExchangeApi& api, const BorrowedTensor& tensor, TensorView& view) {
  if (tensor.device_type == kHostMemory) return true;
  if (tensor.device_type != kCudaMemory || api.current_work_stream == nullptr) return false;
  view.device = {DeviceKind::cuda, tensor.device_id};
  return api.current_work_stream(tensor.device_type, tensor.device_id, &view.stream) == 0;
}

}  // namespace

std::optional<TensorView> view_of(const ExchangeApi& api, void* object) {
  BorrowedTensor tensor{};
  if (api.borrow(object, &tensor) != 0) return std::nullopt;
  const std::optional<DataType> dtype = dtype_of(tensor);
  if (!dtype || !is_contiguous(tensor)) return std::nullopt;
  if (tensor.data == nullptr && !is_empty(tensor)) return std::nullopt;
  void* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  TensorView view{data, *dtype, Shape(tensor.shape, tensor.shape + tensor.dimensions), {}};
  if (!find_place(api, tensor, view)) return std::nullopt;
  return view;
}

}  // namespace scalecom::dlpack
