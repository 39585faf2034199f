#pragma once

#include <cstdint>
#include <optional>

#include "scalecom/tensor.hpp"

// The part of DLPack's C exchange interface (version 1, see https://dmlc.github.io/dlpack) by which
// a Python framework tells what memory a tensor object has: its binary layout, declared here so
// that nothing is compiled against Python or a framework.
namespace scalecom::dlpack {

inline constexpr std::uint32_t kMajorVersion = 1;

/// DLTensor
struct BorrowedTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t dimensions;
  std::uint8_t type_code;
  std::uint8_t type_bits;
  std::uint16_t type_lanes;
  std::int64_t* shape;
  std::int64_t* strides;  ///< in elements; null: contiguous
  std::uint64_t byte_offset;
};

/// DLPackExchangeAPI; what is not called is kept as a pointer without a type.
struct ExchangeApi {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  const ExchangeApi* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_object;
  void* managed_tensor_to_object;
  /// Shape and strides are the object's. 0, or -1 with a Python exception set. May be null.
  int (*borrow)(void* object, BorrowedTensor* tensor);
  /// The stream that the framework enqueues on, of the calling thread. As borrow(). May be null.
  int (*current_work_stream)(std::int32_t device_type, std::int32_t device_id, void** stream);
};

/// The tensor that a Python object is, if it is one that this library takes as it is: in the host's
/// memory or on a CUDA device, contiguous, of a known type. Nothing otherwise, possibly with a
/// Python exception set. The caller holds the interpreter's lock.
std::optional<TensorView> view_of(const ExchangeApi& api, void* object);

}  // namespace scalecom::dlpack
