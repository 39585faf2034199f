#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

namespace scalecom {

// Numbers in messages, the lowest byte first.

static_assert(std::endian::native == std::endian::little);

template <class Number>
requires std::is_arithmetic_v<Number>
void store_number(void* to, Number number) { std::memcpy(to, &number, sizeof number); }

template <class Number>
requires std::is_arithmetic_v<Number> Number load_number(const void* from) {
  Number number{};
  std::memcpy(&number, from, sizeof number);
  return number;
}

template <class Number>
requires std::is_arithmetic_v<Number> std::string to_bytes(Number number) {
  std::string bytes(sizeof number, '\0');
  store_number(bytes.data(), number);
  return bytes;
}

}  // namespace scalecom
