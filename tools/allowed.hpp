#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>

namespace scalecom::tools {

/// What an option takes that is one of some words; makes the word's number of it, which CLI11 reads
/// as an enumerator. Its error has the words alone, where CLI11's own has their numbers, too.
template <typename Enumeration>
CLI::Validator one_of(const std::map<std::string, Enumeration>& words) {
  std::string names;
  for (const auto& [word, unused] : words) names += (names.empty() ? "" : ", ") + word;
  return {[words, names](std::string& text) -> std::string {
            const auto found = words.find(CLI::detail::to_lower(text));
            if (found == words.end()) {
              return "'" + text + "' is not allowed; allowed: " + names;
            }
            text = std::to_string(static_cast<int>(found->second));
            return {};
          },
          names};
}

/// Whole numbers from `least` on, and no more than any machine has of anything.
inline CLI::Range whole_from(std::int64_t least) { return {least, std::int64_t{1} << 40}; }

}  // namespace scalecom::tools
