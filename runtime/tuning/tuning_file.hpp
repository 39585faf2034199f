#pragma once

#include <optional>
#include <string>
#include <vector>

#include "collective/tuning.hpp"

namespace scalecom {

/// What a measurement is good for: a job with another key measures anew.
struct TuningKey {
  std::string version;             ///< of the library
  std::vector<std::string> hosts;  ///< "name: ranks", sorted
  int ranks = 1;
  int compress_threads = 1;
  std::string transport;
  std::string collectives;  ///< what the ranks of a host share
  std::string cpu_model;
  std::string thoroughness;  ///< quick, full
};

/// As text, for the file itself.
std::string to_string(const TuningKey& key);
/// DIRECTORY/tuning-HASH.json.
std::string tuning_file_path(const std::string& directory, const TuningKey& key);

/// The tuning as JSON, numbers in full.
std::string to_json(const Tuning& tuning);
/// Throws Error(invalid_argument) with the reason when it is none: what is missing, no positive
/// finite number, or more than slots of `slot_bytes` hold.
Tuning parse_tuning(const std::string& json, std::size_t slot_bytes);

/// What reading a file gave: a tuning, or why it cannot be used, or neither where there is no file.
struct TuningFile {
  std::optional<Tuning> tuning;
  std::string problem;
};
TuningFile read_tuning_file(const std::string& path, const TuningKey& key, std::size_t slot_bytes);

/// Makes the directories and replaces the file at once, so that nobody reads half of it. Returns
/// the system's reason when it cannot, else nothing.
std::string write_tuning_file(const std::string& path, const TuningKey& key, const Tuning& tuning);

/// The processor's name, for the key.
std::string cpu_model();

}  // namespace scalecom
