#include "bindings/jax_ffi/call.hpp"

#include <cstring>
#include <exception>

namespace scalecom::xla {
namespace {

/// Where the oldest Call that has what is read here ends; its last part is newer.
constexpr std::size_t kCallBytes = offsetof(Call, future);

/// An error of XLA's own, to be given back.
struct GivenError {
  Error* error;
};

ErrorCode error_code_of(int status) {
  switch (static_cast<StatusCode>(status)) {
    case StatusCode::invalid_argument: return ErrorCode::invalid_argument;
    case StatusCode::mismatch: return ErrorCode::failed_precondition;
    case StatusCode::shut_down:
    case StatusCode::rank_lost: return ErrorCode::aborted;
    case StatusCode::timed_out: return ErrorCode::deadline_exceeded;
    case StatusCode::unavailable: return ErrorCode::unavailable;
    default: return ErrorCode::internal;
  }
}

/// scalecom::DType's value.
std::int32_t dtype_of(int type) {
  switch (static_cast<ElementType>(type)) {
    case ElementType::uint8: return 0;
    case ElementType::int8: return 1;
    case ElementType::int16: return 2;
    case ElementType::int32: return 3;
    case ElementType::int64: return 4;
    case ElementType::float16: return 5;
    case ElementType::float32: return 6;
    case ElementType::float64: return 7;
    case ElementType::boolean: return 8;
    case ElementType::bfloat16: return 9;
    default:
      throw CallError(ErrorCode::invalid_argument,
                      "XLA's element type " + std::to_string(type) + " is none of scalecom");
  }
}

bool answer_metadata(Call* call) {
  for (Extension* extension = call->extensions; extension != nullptr; extension = extension->next) {
    if (extension->type == kMetadataExtension) {
      auto& metadata = *reinterpret_cast<MetadataExtension*>(extension)->metadata;
      metadata.version.major = kMajorVersion;
      metadata.version.minor = kMinorVersion;
      return true;
    }
  }
  return false;
}

void check_version(const Call& call, Platform platform) {
  const bool lacks_device = platform == Platform::cuda && call.api->struct_size < sizeof(Api);
  if (call.api->version.major != kMajorVersion || call.struct_size < kCallBytes || lacks_device) {
    throw CallError(ErrorCode::unavailable,
                    "jaxlib's foreign function interface has version " +
                        std::to_string(call.api->version.major) + "." +
                        std::to_string(call.api->version.minor) +
                        ", which this version of scalecom does not know; install a jaxlib of the "
                        "range that scalecom.jax names");
  }
}

void check(Error* error) {
  if (error != nullptr) throw GivenError{error};
}

/// The stream that XLA enqueues the program on, and its device.
Place find_place(const Call& call, Platform platform) {
  if (platform == Platform::host) return {};
  StreamArguments stream{sizeof(StreamArguments), nullptr, call.context, nullptr};
  check(call.api->get_stream(&stream));
  DeviceArguments device{sizeof(DeviceArguments), nullptr, call.context, 0};
  check(call.api->get_device(&device));
  return {static_cast<std::int32_t>(DeviceKind::cuda), device.device, stream.stream};
}

Error* make_error(const Call& call, ErrorCode code, const char* message) {
  ErrorArguments arguments{sizeof(ErrorArguments), nullptr, message, static_cast<int>(code)};
  return call.api->create_error(&arguments);
}

}  // namespace

void check(int status) {
  if (status != 0) {
    throw CallError(error_code_of(status), scalecom_last_error());
  }
}

std::vector<scalecom_tensor> read_tensors(const Buffers& buffers, const Place& place) {
  std::vector<scalecom_tensor> tensors;
  for (std::int64_t i = 0; i < buffers.size; ++i) {
    const auto& buffer = *static_cast<const Buffer*>(buffers.values[i]);
    if (buffer.type != static_cast<int>(ElementType::token)) {
      tensors.push_back({buffer.data, buffer.shape, static_cast<std::int32_t>(buffer.dimensions),
                         dtype_of(buffer.type), place.device_kind, place.device_index,
                         place.stream});
    }
  }
  return tensors;
}

const Array& find_array(const Attributes& attributes, const std::string& name) {
  for (std::int64_t i = 0; i < attributes.size; ++i) {
    const Text& known = *attributes.names[i];
    if (attributes.types[i] == kArray && name == std::string(known.begin, known.size)) {
      return *static_cast<const Array*>(attributes.values[i]);
    }
  }
  throw CallError(ErrorCode::internal, "the call has no array \"" + name + "\"");
}

std::vector<const char*> read_names(const Attributes& attributes, std::size_t count) {
  const Array& bytes = find_array(attributes, "names");
  const char* next = static_cast<const char*>(bytes.data);
  const char* end = next + bytes.size;
  std::vector<const char*> names;
  while (next < end && names.size() < count) {
    names.push_back(next);
    const void* zero = std::memchr(next, 0, end - next);
    next = zero == nullptr ? end + 1 : static_cast<const char*>(zero) + 1;
  }
  if (names.size() != count || next != end) {
    throw CallError(ErrorCode::internal, "the call has not a name for each tensor");
  }
  return names;
}

Tickets::~Tickets() {
  while (finished_ < tickets_.size()) finish_next();
  for (scalecom_ticket* ticket : tickets_) scalecom_ticket_release(ticket);
}

scalecom_ticket** Tickets::add(std::size_t count) {
  tickets_.resize(tickets_.size() + count);
  return tickets_.data() + tickets_.size() - count;
}

int Tickets::finish_next() {
  const scalecom_ticket* ticket = tickets_[finished_++];
  if (ticket == nullptr) return 0;
  const int status = scalecom_ticket_wait(ticket, -1.0);
  const int followed = scalecom_ticket_make_wait(ticket, place_.stream);
  return status != 0 ? status : followed;
}

void Tickets::wait() {
  while (finished_ < tickets_.size()) check(finish_next());
}

Error* answer(Call* call, Platform platform, void (*body)(const Call&, const Place&)) noexcept {
  if (answer_metadata(call)) {
    return nullptr;
  }
  try {
    check_version(*call, platform);
    body(*call, find_place(*call, platform));
    return nullptr;
  } catch (const GivenError& given) {
    return given.error;
  } catch (const CallError& error) {
    return make_error(*call, error.code(), error.what());
  } catch (const std::exception& error) {
    return make_error(*call, ErrorCode::internal, error.what());
  }
}

}  // namespace scalecom::xla
