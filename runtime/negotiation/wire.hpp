#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "runtime/negotiation.hpp"
#include "runtime/negotiation/rank_set.hpp"

namespace scalecom::negotiation {

/// Builds a message: varints (LEB128), signed ones in zigzag, strings with their length in front.
class Writer {
 public:
  void put_varint(std::uint64_t value);
  template <class Enum>
  requires std::is_enum_v<Enum>
  void put_enum(Enum value) { put_varint(static_cast<std::uint64_t>(value)); }
  void put_signed(std::int64_t value);
  void put_double(double value);
  void put_string(std::string_view text);
  void put_bytes(std::string_view bytes) { bytes_.append(bytes); }

  bool is_empty() const noexcept { return bytes_.empty(); }
  const std::string& bytes() const noexcept { return bytes_; }
  std::string take() { return std::exchange(bytes_, {}); }

 private:
  std::string bytes_;
};

/// Takes a message apart. Every method throws Error(internal) saying what is wrong when the bytes
/// do not hold what is asked for; nothing is ever allocated by an unchecked length.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  bool is_at_end() const noexcept { return rest_.empty(); }
  std::uint64_t get_varint();
  /// A varint that must be less than `limit`.
  std::uint64_t get_below(std::uint64_t limit, const char* what);
  std::int64_t get_signed();
  double get_double();
  /// Lives as long as the message.
  std::string_view get_string();
  /// How many items follow, each of at least one byte.
  std::size_t get_count(const char* what);

 private:
  std::string_view rest_;
};

[[noreturn]] void refuse_message(const std::string& problem);

/// By its difference from the step before it.
void write_step(Writer& writer, std::int64_t step, std::int64_t before);
std::int64_t read_step(Reader& reader, std::int64_t before);

void write_signature(Writer& writer, const TensorSignature& signature);
TensorSignature read_signature(Reader& reader);

void write_status(Writer& writer, const Status& status);
Status read_status(Reader& reader);

void write_ranks(Writer& writer, const RankSet& ranks);
/// Requires a set that is not empty, of ranks in [first, end).
RankSet read_ranks(Reader& reader, int first, int end);

/// Runs of equal extents: ranks that agree cost nothing.
void write_extents(Writer& writer, std::span<const std::int64_t> extents);
/// As many as `extents` has.
void read_extents(Reader& reader, std::span<std::int64_t> extents);

}  // namespace scalecom::negotiation
