#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "scalecom/config.hpp"

namespace scalecom {

/// One row of the settings table: everything there is to know about one variable. The variables
/// are SCALECOM_<name> and, as a fall-back, HOROVOD_<name>.
struct Setting {
  std::string name;
  std::string unit;
  std::string allowed;  ///< for people
  std::string description;
  /// Parses `text` into the config; false when it is not allowed.
  std::function<bool(Config& config, const std::string& text)> parse;
  std::function<std::string(const Config& config)> print;
  /// Ranks must have the same value.
  bool must_agree = false;
  /// False: known from Horovod, checked, and without effect in this version.
  bool has_effect = true;
};

/// All of them, in the order of docs/configuration.md.
const std::vector<Setting>& settings_table();

/// `config` as from_environment() might have made it: words in small letters. Throws
/// Error(invalid_argument) for a value that the table does not allow, which a program has given.
Config checked_config(const Config& config);

/// Throws what a `value` gets that `setting` does not allow; `source`: where it stands.
[[noreturn]] void refuse_value(const Setting& setting, const std::string& source,
                               const std::string& value);

/// A sentence for each variable that is set but has no effect.
std::vector<std::string> settings_without_effect(const Config& config);

/// Names of the variables that are set.
std::vector<std::string> environment_names();

/// A sentence for each of these variables that is meant for a setting and is none: SCALECOM_<name>
/// without a row in the table, and HOROVOD_<name> that is a row's but for a typing error or two, or
/// for its last words. (Horovod has variables that scalecom does not know.)
std::vector<std::string> misspelt_settings(const std::vector<std::string>& variables);

/// The settings that must agree, as text for the other ranks.
std::string agreement_fingerprint(const Config& config);
/// Given the fingerprints of all ranks, by rank: empty when they agree, else an error that names
/// the variable, the values and the ranks.
std::string describe_disagreement(const std::vector<std::string>& fingerprints);

/// The variable that gave the setting `name` its value, as the user wrote it: SCALECOM_<name>, also
/// where none did, or HOROVOD_<name>.
std::string variable_of(const Config& config, const std::string& name);

/// "adaptive", or the number.
std::string describe_cycle_time(double cycle_time_ms);

/// Requires one of the names that the table allows.
LogLevel parse_log_level(const std::string& name);

/// Whether NCCL's own variables say that ranks may share a GPU: each has an NCCL_HOSTID, or where
/// that `has_switch`, NCCL_MULTI_RANK_GPU_ENABLE is 1.
bool nccl_may_share_a_gpu(bool has_switch);

/// Whether NCCL_COMM_BLOCKING is set, which overrides what each communicator asks for.
bool is_nccl_blocking_set();

/// Sets NCCL_TUNER_PLUGIN, unless it is set, for NCCL to ask `library`. Before threads of others
/// read the environment.
void offer_nccl_tuner(const std::string& library);

}  // namespace scalecom
