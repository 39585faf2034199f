#include "runtime/tuning/tuning_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/write_file.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

using nlohmann::json;

constexpr std::size_t kFileBytesMax = 64 << 10;
constexpr std::size_t kLineBytes = 64;  // blocks are whole cache lines

Error not_usable(const std::string& reason) { return {StatusCode::invalid_argument, reason}; }

double positive(const json& object, const char* name) {
  const json& value = object.at(name);
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!std::isfinite(number) || number <= 0.0) {
    throw not_usable(fmt::format("{} is {}, not a positive finite number", name, value.dump()));
  }
  return number;
}

std::size_t bytes_up_to(const json& object, const char* name, std::size_t max, std::size_t unit) {
  const double number = positive(object, name);
  const auto bytes = static_cast<std::size_t>(std::min(number, 1e18));
  if (bytes > max || bytes % unit != 0 || static_cast<double>(bytes) != number) {
    throw not_usable(fmt::format("{} is {}; allowed are multiples of {} up to {}", name,
                                 object.at(name).dump(), unit, max));
  }
  return bytes;
}

json as_json(const Tuning& tuning) {
  return {{"between_hosts",
           {{"latency_s", tuning.between_hosts.latency_s},
            {"bytes_per_s", tuning.between_hosts.bytes_per_s},
            {"reduce_bytes_per_s", tuning.between_hosts.reduce_bytes_per_s},
            {"block_bytes", tuning.between_block_bytes}}},
          {"inside_host",
           {{"latency_s", tuning.inside_host.latency_s},
            {"copy_bytes_per_s", tuning.inside_host.copy_bytes_per_s},
            {"flat_bytes_max", tuning.shm.flat_bytes_max},
            {"block_bytes", tuning.shm.block_bytes}}},
          {"kernels",
           {{"swept_elements_per_s", tuning.kernels.swept_elements_per_s},
            {"filled_elements_per_s", tuning.kernels.filled_elements_per_s},
            {"taken_elements_per_s", tuning.kernels.taken_elements_per_s}}}};
}

Tuning from_json(const json& object, std::size_t slot_bytes) {
  const json& between = object.at("between_hosts");
  const json& inside = object.at("inside_host");
  Tuning tuning;
  tuning.between_hosts = {.latency_s = positive(between, "latency_s"),
                          .bytes_per_s = positive(between, "bytes_per_s"),
                          .reduce_bytes_per_s = positive(between, "reduce_bytes_per_s")};
  tuning.between_block_bytes = bytes_up_to(between, "block_bytes", slot_bytes, kLineBytes);
  tuning.inside_host = {.latency_s = positive(inside, "latency_s"),
                        .copy_bytes_per_s = positive(inside, "copy_bytes_per_s")};
  tuning.shm = {.flat_bytes_max = bytes_up_to(inside, "flat_bytes_max", slot_bytes, 1),
                .block_bytes = bytes_up_to(inside, "block_bytes", slot_bytes, kLineBytes)};
  const json& kernels = object.at("kernels");
  tuning.kernels = {.swept_elements_per_s = positive(kernels, "swept_elements_per_s"),
                    .filled_elements_per_s = positive(kernels, "filled_elements_per_s"),
                    .taken_elements_per_s = positive(kernels, "taken_elements_per_s")};
  return tuning;
}

// Turns what the JSON library says into this library's error.
template <class Read>
auto checked(const Read& read) {
  try {
    return read();
  } catch (const json::exception& error) {
    throw not_usable(error.what());
  }
}

std::string system_reason() { return std::strerror(errno); }

std::string read_all(int descriptor) {
  std::string text(kFileBytesMax + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(descriptor, text.data() + size, text.size() - size);
    if (got < 0) throw not_usable(system_reason());
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > kFileBytesMax)
    throw not_usable(fmt::format("it has more than {} bytes", kFileBytesMax));
  text.resize(size);
  return text;
}

// Anyone could give figures that make the job slow, so only the user's own count.
void check_owner(int descriptor) {
  struct stat facts {};
  if (fstat(descriptor, &facts) != 0) throw not_usable(system_reason());
  if (!S_ISREG(facts.st_mode)) throw not_usable("it is no regular file");
  if (facts.st_uid != geteuid()) {
    throw not_usable(fmt::format("it belongs to user {}, not to user {}", facts.st_uid, geteuid()));
  }
}

Tuning parse_file(const std::string& text, const TuningKey& key, std::size_t slot_bytes) {
  return checked([&] {
    const json file = json::parse(text);
    const std::string version = file.at("version").get<std::string>();
    if (version != key.version) {
      throw not_usable(fmt::format("it is of scalecom {}, this is {}", version, key.version));
    }
    if (file.at("key") != to_string(key)) throw not_usable("it is of another job");
    return from_json(file.at("tuning"), slot_bytes);
  });
}

// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every machine, which std::hash need not be.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char character : text) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

std::string to_string(const TuningKey& key) {
  return fmt::format("scalecom {}; hosts {}; {} ranks of {} threads; {}; {}; {}; {}", key.version,
                     fmt::join(key.hosts, ", "), key.ranks, key.compress_threads, key.transport,
                     key.collectives, key.cpu_model, key.thoroughness);
}

std::string tuning_file_path(const std::string& directory, const TuningKey& key) {
  return fmt::format("{}/tuning-{:016x}.json", directory, hash_of(to_string(key)));
}

std::string to_json(const Tuning& tuning) { return as_json(tuning).dump(); }

Tuning parse_tuning(const std::string& text, std::size_t slot_bytes) {
  return checked([&] { return from_json(json::parse(text), slot_bytes); });
}

TuningFile read_tuning_file(const std::string& path, const TuningKey& key, std::size_t slot_bytes) {
  const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file.is_open() && errno == ENOENT) return {};
  try {
    if (!file.is_open()) throw not_usable(system_reason());
    check_owner(file.descriptor());
    return {parse_file(read_all(file.descriptor()), key, slot_bytes), {}};
  } catch (const Error& error) {
    return {std::nullopt, error.what()};
  }
}

std::string write_tuning_file(const std::string& path, const TuningKey& key, const Tuning& tuning) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return error.message();
  const std::string temporary = fmt::format("{}.{}", path, getpid());
  std::string problem;
  {
    unlink(temporary.c_str());
    const OpenFile file(
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file.is_open()) return system_reason();
    const json object = {
        {"version", key.version}, {"key", to_string(key)}, {"tuning", as_json(tuning)}};
    if (!write_all(file, object.dump(2) + "\n")) problem = system_reason();
  }
  if (problem.empty() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    problem = system_reason();
  }
  if (!problem.empty()) unlink(temporary.c_str());
  return problem;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace scalecom
