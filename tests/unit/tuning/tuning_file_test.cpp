#include "runtime/tuning/tuning_file.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace scalecom;
using Catch::Contains;
using scalecom::test::TemporaryFolder;

namespace {

constexpr std::size_t kSlot = 512 << 10;

const TuningKey kKey{.version = "1.2.3",
                     .hosts = {"a: 2", "b: 2"},
                     .ranks = 4,
                     .transport = "mpi",
                     .collectives = "messages",
                     .cpu_model = "a processor",
                     .thoroughness = "quick"};

Tuning sample_tuning() {
  Tuning tuning = Tuning::defaults(2, kSlot);
  tuning.between_hosts = {
      .latency_s = 1.0 / 3e5, .bytes_per_s = 1.1e8, .reduce_bytes_per_s = 7.7e9};
  tuning.shm.flat_bytes_max = 8 << 10;
  tuning.between_block_bytes = 64 << 10;
  tuning.kernels = {.swept_elements_per_s = 1.0 / 3e-10,
                    .filled_elements_per_s = 7e9,
                    .taken_elements_per_s = 1.0 / 7e-9};
  return tuning;
}

// A file that is valid, and may then be spoilt.
class WrittenFile {
 public:
  WrittenFile() : path(tuning_file_path(folder_.path() + "/new/folders", kKey)) {
    problem = write_tuning_file(path, kKey, sample_tuning());
  }
  TuningFile read() const { return read_tuning_file(path, kKey, kSlot); }
  std::string text() const {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  void replace(const std::string& text) const { std::ofstream(path) << text; }
  // Gives one value of the tuning.
  void set(const char* group, const char* name, const nlohmann::json& value) const {
    auto file = nlohmann::json::parse(text());
    file["tuning"][group][name] = value;
    replace(file.dump());
  }

 private:
  TemporaryFolder folder_;

 public:
  const std::string path;
  std::string problem;
};

}  // namespace

TEST_CASE("what was written is read, to the last digit, and nothing else is left in the folder") {
  const WrittenFile file;
  REQUIRE(file.problem.empty());
  const TuningFile read = file.read();
  CHECK(read.problem.empty());
  REQUIRE(read.tuning.has_value());
  CHECK(*read.tuning == sample_tuning());
  const auto folder = std::filesystem::path(file.path).parent_path();
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  struct stat facts {};
  REQUIRE(stat(file.path.c_str(), &facts) == 0);
  CHECK((facts.st_mode & 0777) == 0600);
}

TEST_CASE("no file is no problem") {
  const TemporaryFolder folder;
  const TuningFile read = read_tuning_file(tuning_file_path(folder.path(), kKey), kKey, kSlot);
  CHECK_FALSE(read.tuning.has_value());
  CHECK(read.problem.empty());
}

TEST_CASE("a truncated file is not used, at whatever byte it ends") {
  const WrittenFile file;
  const std::string whole = file.text();
  for (std::size_t size = 0; size + 2 < whole.size(); size += 7) {
    file.replace(whole.substr(0, size));
    const TuningFile read = file.read();
    CHECK_FALSE(read.tuning.has_value());
    CHECK_FALSE(read.problem.empty());
  }
}

TEST_CASE("a file of another version or another job is not used") {
  const WrittenFile file;
  const auto whole = nlohmann::json::parse(file.text());
  auto changed = whole;
  changed["version"] = "0.0.1";
  file.replace(changed.dump());
  CHECK_THAT(file.read().problem, Contains("0.0.1") && Contains("1.2.3"));
  changed = whole;
  changed["key"] = "hosts c: 4";
  file.replace(changed.dump());
  CHECK_THAT(file.read().problem, Contains("another job"));
  CHECK_FALSE(file.read().tuning.has_value());
}

TEST_CASE("values that are no positive finite numbers are named") {
  const WrittenFile file;
  for (const nlohmann::json& wrong :
       {nlohmann::json(0.0), nlohmann::json(-1e-6), nlohmann::json("fast"), nlohmann::json()}) {
    file.set("between_hosts", "latency_s", wrong);
    CHECK_THAT(file.read().problem, Contains("latency_s") && Contains(wrong.dump()));
    CHECK_FALSE(file.read().tuning.has_value());
  }
  file.set("between_hosts", "latency_s", 1e-5);
  file.set("kernels", "swept_elements_per_s", -1);
  CHECK_THAT(file.read().problem, Contains("swept_elements_per_s"));
  file.set("kernels", "swept_elements_per_s", 1e9);
  REQUIRE(file.read().tuning.has_value());
  for (const char* wrong : {"NaN", "nan", "Infinity", "1e999"}) {
    std::string text = file.text();
    const auto place = text.find("1e-05");
    REQUIRE(place != std::string::npos);
    const WrittenFile other;
    other.replace(text.replace(place, 5, wrong));
    CHECK_FALSE(other.read().tuning.has_value());
    CHECK_FALSE(other.read().problem.empty());
  }
}

TEST_CASE("blocks that no slot holds, or that are no whole cache lines, are not used") {
  const WrittenFile file;
  for (const char* group : {"between_hosts", "inside_host"}) {
    for (const std::size_t wrong : {2 * kSlot, kSlot - 1, std::size_t{1}}) {
      file.set(group, "block_bytes", wrong);
      CHECK_THAT(file.read().problem, Contains("block_bytes") && Contains("524288"));
    }
    file.set(group, "block_bytes", kSlot);
    CHECK(file.read().tuning.has_value());
  }
}

TEST_CASE("a file of another user is not used") {
  const WrittenFile file;
  if (geteuid() != 0) {
    WARN("skipped: only root can give a file away");
    return;
  }
  REQUIRE(chown(file.path.c_str(), 12345, 12345) == 0);
  CHECK_THAT(file.read().problem, Contains("12345"));
  CHECK_FALSE(file.read().tuning.has_value());
}

TEST_CASE("a link, a folder and a file without end are not followed") {
  const WrittenFile file;
  std::filesystem::rename(file.path, file.path + ".real");
  std::filesystem::create_symlink(file.path + ".real", file.path);
  CHECK_FALSE(file.read().tuning.has_value());
  CHECK_FALSE(file.read().problem.empty());
  std::filesystem::remove(file.path);
  std::filesystem::create_directory(file.path);
  CHECK_THAT(file.read().problem, Contains("regular"));
  std::filesystem::remove(file.path);
  file.replace(std::string(1 << 20, ' '));
  CHECK_THAT(file.read().problem, Contains("more than"));
}

TEST_CASE("a folder that cannot be written is a reason, not an error") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/file") << "no folder";
  const std::string path = tuning_file_path(folder.path() + "/file/cache", kKey);
  CHECK_FALSE(write_tuning_file(path, kKey, sample_tuning()).empty());
  if (geteuid() == 0) return;  // Root writes everywhere.
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_read);
  CHECK_THAT(write_tuning_file(tuning_file_path(folder.path(), kKey), kKey, sample_tuning()),
             Contains("denied"));
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
}

TEST_CASE("each part of the key names another file") {
  const std::string path = tuning_file_path("/cache", kKey);
  std::vector<TuningKey> others(8, kKey);
  others[0].version = "1.2.4";
  others[1].hosts = {"a: 2", "c: 2"};
  others[2].ranks = 5;
  others[3].transport = "tcp";
  others[4].collectives = "shared memory";
  others[5].cpu_model = "another";
  others[6].thoroughness = "full";
  others[7].compress_threads = 2;
  for (const TuningKey& other : others) CHECK(tuning_file_path("/cache", other) != path);
  CHECK(tuning_file_path("/cache", kKey) == path);
}
