#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace scalecom {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept {
    return std::hash<std::string_view>{}(text);
  }
};

/// By name, found by any string without a copy of it. Values stay where they are.
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

}  // namespace scalecom
