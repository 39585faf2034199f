#pragma once

#include <cstddef>
#include <cstdint>

/// What a handler sees of XLA's foreign function interface, laid out as its C ABI version 0.3 has
/// it, so that nothing of jaxlib is needed to build. A test compares it with the header of the
/// installed jaxlib. All memory belongs to XLA and lives as long as the call.
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

/// The beginning of the table of functions; the rest is not used.
struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
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
