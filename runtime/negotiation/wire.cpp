#include "runtime/negotiation/wire.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/little_endian.hpp"

namespace scalecom::negotiation {
namespace {

constexpr std::uint64_t kRanksMax = 1u << 30;

template <class Enum>
Enum read_enum(Reader& reader, Enum last, const char* what) {
  return static_cast<Enum>(reader.get_below(static_cast<std::uint64_t>(last) + 1, what));
}

std::int32_t read_int32(Reader& reader, const char* what) {
  const std::int64_t value = reader.get_signed();
  if (value != static_cast<std::int32_t>(value)) {
    refuse_message(fmt::format("{} {} does not fit 32 bits", what, value));
  }
  return static_cast<std::int32_t>(value);
}

}  // namespace

void refuse_message(const std::string& problem) { throw Error(StatusCode::internal, problem); }

void Writer::put_varint(std::uint64_t value) {
  while (value >= 0x80) {
    bytes_.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes_.push_back(static_cast<char>(value));
}

void Writer::put_signed(std::int64_t value) {
  const auto sign = static_cast<std::uint64_t>(value >> 63);
  put_varint((static_cast<std::uint64_t>(value) << 1) ^ sign);
}

void Writer::put_double(double value) { bytes_ += to_bytes(value); }

void Writer::put_string(std::string_view text) {
  put_varint(text.size());
  put_bytes(text);
}

std::uint64_t Reader::get_varint() {
  std::uint64_t value = 0;
  for (std::size_t place = 0; place < rest_.size() && place < 10; ++place) {
    const auto byte = static_cast<unsigned char>(rest_[place]);
    if (place == 9 && byte > 1) break;
    value |= static_cast<std::uint64_t>(byte & 0x7f) << (7 * place);
    if (byte < 0x80) {
      rest_.remove_prefix(place + 1);
      return value;
    }
  }
  refuse_message(rest_.size() < 10 ? "it ends inside a number" : "a number is longer than 64 bits");
}

std::uint64_t Reader::get_below(std::uint64_t limit, const char* what) {
  const std::uint64_t value = get_varint();
  if (value >= limit) refuse_message(fmt::format("{} {} is not below {}", what, value, limit));
  return value;
}

std::int64_t Reader::get_signed() {
  const std::uint64_t value = get_varint();
  return static_cast<std::int64_t>((value >> 1) ^ (~(value & 1) + 1));
}

double Reader::get_double() {
  if (rest_.size() < sizeof(double)) refuse_message("it ends inside a floating-point number");
  const auto value = load_number<double>(rest_.data());
  rest_.remove_prefix(sizeof value);
  return value;
}

std::string_view Reader::get_string() {
  const std::size_t length = get_count("length of a text");
  const std::string_view text = rest_.substr(0, length);
  rest_.remove_prefix(length);
  return text;
}

std::size_t Reader::get_count(const char* what) {
  const std::uint64_t count = get_varint();
  if (count > rest_.size()) {
    refuse_message(fmt::format("{} {}, but {} bytes are left", what, count, rest_.size()));
  }
  return static_cast<std::size_t>(count);
}

// Difference and sum wrap around.
void write_step(Writer& writer, std::int64_t step, std::int64_t before) {
  writer.put_signed(static_cast<std::int64_t>(static_cast<std::uint64_t>(step) -
                                              static_cast<std::uint64_t>(before)));
}

std::int64_t read_step(Reader& reader, std::int64_t before) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(before) +
                                   static_cast<std::uint64_t>(reader.get_signed()));
}

void write_signature(Writer& writer, const TensorSignature& signature) {
  writer.put_enum(signature.kind);
  writer.put_enum(signature.dtype);
  writer.put_enum(signature.op);
  writer.put_enum(signature.device);
  writer.put_signed(signature.root);
  writer.put_double(signature.prescale);
  writer.put_double(signature.postscale);
  writer.put_enum(signature.compression.mode);
  writer.put_signed(signature.compression.rate);
  writer.put_double(signature.compression.beta);
  writer.put_signed(signature.compression.warmup_steps);
  writer.put_enum(signature.compression.values);
  writer.put_double(signature.compression.guard);
  writer.put_signed(signature.compression.ramp_steps);
  writer.put_signed(signature.first_step);
  writer.put_signed(signature.priority);
  writer.put_varint(signature.shape.size());
  for (const std::int64_t extent : signature.shape) writer.put_signed(extent);
}

TensorSignature read_signature(Reader& reader) {
  TensorSignature signature;
  signature.kind = read_enum(reader, OperationKind::all_to_all, "operation");
  signature.dtype = read_enum(reader, DataType::bfloat16, "dtype");
  signature.op = read_enum(reader, ReduceOp::product, "op");
  signature.device = read_enum(reader, DeviceKind::cuda, "device");
  signature.root = read_int32(reader, "root");
  signature.prescale = reader.get_double();
  signature.postscale = reader.get_double();
  signature.compression.mode = read_enum(reader, CompressionMode::automatic, "compression mode");
  signature.compression.rate = reader.get_signed();
  signature.compression.beta = reader.get_double();
  signature.compression.warmup_steps = reader.get_signed();
  signature.compression.values = read_enum(reader, DataType::bfloat16, "dtype of values");
  signature.compression.guard = reader.get_double();
  signature.compression.ramp_steps = read_int32(reader, "ramp steps");
  signature.first_step = reader.get_signed();
  signature.priority = read_int32(reader, "priority");
  const std::size_t dimensions = reader.get_count("number of dimensions");
  signature.shape.reserve(dimensions);
  for (std::size_t i = 0; i < dimensions; ++i) signature.shape.push_back(reader.get_signed());
  return signature;
}

void write_status(Writer& writer, const Status& status) {
  writer.put_enum(status.code());
  writer.put_string(status.message());
}

Status read_status(Reader& reader) {
  const StatusCode code = read_enum(reader, StatusCode::internal, "status code");
  if (code == StatusCode::ok) refuse_message("a session cannot end with status ok");
  return Status(code, std::string(reader.get_string()));
}

void write_ranks(Writer& writer, const RankSet& ranks) {
  writer.put_varint(ranks.ranges().size());
  int end = 0;
  for (const RankRange& range : ranks.ranges()) {
    writer.put_varint(static_cast<std::uint64_t>(range.first - end));
    writer.put_varint(static_cast<std::uint64_t>(range.end - range.first));
    end = range.end;
  }
}

RankSet read_ranks(Reader& reader, int first, int end) {
  RankSet ranks;
  const std::size_t ranges = reader.get_count("number of rank ranges");
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < ranges; ++i) {
    const std::uint64_t begin = at + reader.get_below(kRanksMax, "rank");
    at = begin + reader.get_below(kRanksMax, "number of ranks");
    if (begin < static_cast<std::uint64_t>(first) || at > static_cast<std::uint64_t>(end) ||
        at == begin) {
      refuse_message(fmt::format("ranks {} to {} are not ranks below it", begin, at));
    }
    ranks.add({static_cast<int>(begin), static_cast<int>(at)});
  }
  if (ranks.is_empty()) refuse_message("a set of ranks is empty");
  return ranks;
}

void write_extents(Writer& writer, std::span<const std::int64_t> extents) {
  for (auto first = extents.begin(); first != extents.end();) {
    const auto next =
        std::find_if(first, extents.end(), [&](std::int64_t extent) { return extent != *first; });
    writer.put_signed(*first);
    writer.put_varint(static_cast<std::uint64_t>(next - first));
    first = next;
  }
}

void read_extents(Reader& reader, std::span<std::int64_t> extents) {
  while (!extents.empty()) {
    const std::int64_t extent = reader.get_signed();
    const std::uint64_t repeats = reader.get_varint();
    if (repeats == 0 || repeats > extents.size()) {
      refuse_message(
          fmt::format("{} first extents, where {} are missing", repeats, extents.size()));
    }
    std::ranges::fill(extents.first(repeats), extent);
    extents = extents.subspan(repeats);
  }
}

}  // namespace scalecom::negotiation
