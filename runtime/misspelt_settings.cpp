// Variables that somebody meant for settings.

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "runtime/settings.hpp"

namespace scalecom {
namespace {

// Letters that are to be put in, left out, changed or swapped with the next one: how far two names
// are from each other (Damerau 1964; no letter is touched twice).
std::size_t typing_errors(const std::string& one, const std::string& other) {
  std::vector<std::vector<std::size_t>> errors(one.size() + 1,
                                               std::vector<std::size_t>(other.size() + 1));
  for (std::size_t i = 0; i <= one.size(); ++i) {
    for (std::size_t j = 0; j <= other.size(); ++j) {
      if (i == 0 || j == 0) {
        errors[i][j] = i + j;
        continue;
      }
      const std::size_t change = one[i - 1] == other[j - 1] ? 0 : 1;
      errors[i][j] =
          std::min({errors[i - 1][j] + 1, errors[i][j - 1] + 1, errors[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1]) {
        errors[i][j] = std::min(errors[i][j], errors[i - 2][j - 2] + 1);
      }
    }
  }
  return errors[one.size()][other.size()];
}

// The setting that somebody who wrote `name`, or left out its last words, may have meant; nullptr
// where none is near.
const Setting* find_near(const std::string& name) {
  constexpr std::size_t kErrorsMax = 2;
  const Setting* nearest = nullptr;
  std::size_t least = std::min(kErrorsMax, name.size() / 3) + 1;
  for (const Setting& setting : settings_table()) {
    if (nearest == nullptr && setting.name.starts_with(name + "_")) nearest = &setting;
    const std::size_t errors = typing_errors(name, setting.name);
    if (errors < least) {
      least = errors;
      nearest = &setting;
    }
  }
  return nearest;
}

// Of scalecom, and no settings: what scalecomrun gives its ranks, and where people and CMake note
// that it is installed.
bool is_no_setting(const std::string& name) {
  constexpr std::array kOthers{"ROOT", "DIR", "HOME", "VENV"};
  return name.starts_with("ELASTIC_") ||
         std::find(kOthers.begin(), kOthers.end(), name) != kOthers.end();
}

}  // namespace

std::vector<std::string> misspelt_settings(const std::vector<std::string>& variables) {
  std::vector<std::string> warnings;
  for (const std::string& variable : variables) {
    const bool is_own = variable.starts_with("SCALECOM_");
    if (!is_own && !variable.starts_with("HOROVOD_")) continue;
    const std::string name = variable.substr(variable.find('_') + 1);
    const bool is_known = std::ranges::any_of(
        settings_table(), [&](const Setting& setting) { return setting.name == name; });
    if (is_known || (is_own && is_no_setting(name))) continue;
    const Setting* near = find_near(name);
    if (near == nullptr && !is_own) continue;
    const std::string meant =
        near == nullptr ? std::string()
                        : variable.substr(0, variable.find('_') + 1) + near->name + " is one; ";
    warnings.push_back(variable + " is set, and there is no such setting; " + meant +
                       "scalecom-info shows all of them");
  }
  return warnings;
}

}  // namespace scalecom
