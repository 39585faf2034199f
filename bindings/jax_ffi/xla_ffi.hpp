#pragma once

#include <cstddef>
#include <cstdint>

/// What a handler sees of XLA's foreign function interface, laid out as its C ABI versions 0.3 and
/// 0.4 have it, so that nothing of jaxlib is needed to build. A test compares it with the header of
/// the installed jaxlib. All memory belongs to XLA and lives as long as the call.
namespace scalecom::xla {

constexpr int kMajorVersion = 0;
constexpr int kMinorVersion = 3;

/// An error that XLA owns; handlers return one, or null.
struct Error;

/// What follows by `next`; `type` tells what it is.
struct Extension {
  std::size_t struct_size;
  int type;
  Extension* next;
};
constexpr int kMetadataExtension = 1;

struct Version {
  std::size_t struct_size;
  Extension* extensions;
  int major;
  int minor;
};

/// Filled in by a handler that is asked what it was made for.
struct Metadata {
  std::size_t struct_size;
  Version version;
  std::uint32_t traits;
  std::int64_t state_type;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct ErrorArguments {
  std::size_t struct_size;
  Extension* extensions;
  const char* message;  ///< copied
  int code;             ///< ErrorCode
};

/// The codes of absl::Status.
enum class ErrorCode : int {
  unknown = 2,
  invalid_argument = 3,
  deadline_exceeded = 4,
  failed_precondition = 9,
  aborted = 10,
  internal = 13,
  unavailable = 14,
};

/// What get_stream() is given, and gives: a cudaStream_t.
struct StreamArguments {
  std::size_t struct_size;
  Extension* extensions;
  void* context;  ///< of the call
  void* stream;   ///< out
};

/// What get_device() is given, and gives: the device's number, as CUDA counts.
struct DeviceArguments {
  std::size_t struct_size;
  Extension* extensions;
  void* context;        ///< of the call
  std::int32_t device;  ///< out
};

/// The table of functions; what is not used has no type. An error that one returns is its caller's.
struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
  const void* of_errors[2];
  const void* register_handler;
  Error* (*get_stream)(StreamArguments*);
  const void* between[12];
  Error* (*get_device)(DeviceArguments*);
};

/// Types of elements that scalecom knows, too.
enum class ElementType : int {
  boolean = 1,
  int8 = 2,
  int16 = 3,
  int32 = 4,
  int64 = 5,
  uint8 = 6,
  float16 = 10,
  float32 = 11,
  float64 = 12,
  bfloat16 = 16,
  token = 17,
};

struct Buffer {
  std::size_t struct_size;
  Extension* extensions;
  int type;  ///< ElementType, or another one of XLA
  void* data;
  std::int64_t dimensions;
  std::int64_t* shape;
};

/// Arguments or results: `values[i]` is a Buffer where types[i] is kBuffer.
struct Buffers {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  void** values;
};
constexpr int kBuffer = 1;

struct Text {
  const char* begin;
  std::size_t size;
};

struct Array {
  int type;  ///< ElementType
  std::size_t size;
  void* data;
};

/// In the order of their names.
struct Attributes {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  Text** names;
  void** values;  ///< an Array where types[i] is kArray
};
constexpr int kArray = 1;

struct Call {
  std::size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Buffers arguments;
  Buffers results;
  Attributes attributes;
  void* future;  ///< of a handler that returns before it is done; of version 0.1 on
};

}  // namespace scalecom::xla
