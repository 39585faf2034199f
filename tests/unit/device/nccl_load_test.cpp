// Which NCCL is loaded, with and without one in the process and on the machine. Each load is in a
// process of its own: what one has loaded stays.

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "device/nccl/communicator.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace scalecom;
using namespace scalecom::device::nccl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

constexpr unsigned kChildSeconds = 30;
const fs::path kDirectory = SCALECOM_NCCL_DIRECTORY;
// The only place where the loader finds it: see device.cmake.
const fs::path kSystem = kDirectory / "system" / "libnccl.so.2";
const fs::path kMine = kDirectory / "mine" / "libnccl.so.2";
const fs::path kFramework = kDirectory / "framework" / "libnccl.so.2";

// A library that passes for NCCL at each of these places, and what is none at kSystem else.
void put_nccl(std::initializer_list<fs::path> places) {
  for (const fs::path& place : {kSystem, kMine, kFramework}) {
    fs::create_directories(place.parent_path());
    fs::remove(place);
  }
  std::ofstream(kSystem) << "no library";
  for (const fs::path& place : places) {
    fs::copy_file(SCALECOM_FAKE_NCCL, place, fs::copy_options::overwrite_existing);
  }
}

// What `body` returns or throws, behind what it logs.
std::string in_process(const std::function<std::string()>& body) {
  std::array<int, 2> ends{};
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(kChildSeconds);
    dup2(ends[1], STDERR_FILENO);
    std::string outcome;
    try {
      outcome = body();
    } catch (const std::exception& error) {
      outcome = std::string("error: ") + error.what();
    }
    const bool is_written = write(ends[1], outcome.data(), outcome.size()) >= 0;
    _exit(is_written ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  return text;
}

// As a framework does it, by its path.
void load_framework(const fs::path& place, int version) {
  void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Error(StatusCode::internal, dlerror());
  reinterpret_cast<void (*)(int)>(dlsym(library, "fake_nccl_set_version"))(version);
}

std::string load(const std::string& named = {}, const std::string& offered = {}) {
  const Api api = load_api({.named = named, .offered = offered});
  return fmt::format("{} of {}", version_text(api.version), api.path);
}

std::string load_beside(int version, const std::string& path = {}) {
  return in_process([&] {
    load_framework(kFramework, version);
    return load(path);
  });
}

}  // namespace

TEST_CASE("without one in the process the system's NCCL is loaded, and none of those beside it") {
  put_nccl({kSystem, kMine});
  CHECK(in_process([] { return load(); }) == "2.28.9 of " + kSystem.string());
}

TEST_CASE("where there is no NCCL, what was tried is told, with the remedy") {
  put_nccl({kMine});
  CHECK_THAT(in_process([] { return load(); }),
             Contains("error: NCCL cannot be loaded (") && Contains(kSystem.string()) &&
                 Contains("pip install nvidia-nccl") && Contains("SCALECOM_NCCL_LIBRARY names"));
}

TEST_CASE("the NCCL that the setting names is loaded, and called") {
  put_nccl({kSystem, kMine});
  CHECK(in_process([] { return load(kMine); }) == "2.28.9 of " + kMine.string());
  const std::string outcome = in_process([]() -> std::string {
    const WaitContext context{Deadline::after(std::chrono::seconds(20)), nullptr};
    const auto api = std::make_shared<const Api>(load_api({.named = kMine}));
    if (api->comm_split) return "a split that the library has not";
    const auto communicator = Communicator::create(api, make_unique_id(*api), 1, 3, context);
    std::array<float, 4> values{1.0f, 2.0f, 3.0f, 4.0f};
    communicator->all_reduce(values.data(), values.data(), 4, DataType::float32, ReduceOp::sum,
                             nullptr, context);
    if (values != std::array{3.0f, 6.0f, 9.0f, 12.0f}) return "another sum";
    communicator->broadcast(values.data(), values.data(), 4, 0, nullptr, context);
    return "no error";
  });
  CHECK_THAT(outcome, Contains("a name: the last words"));
}

TEST_CASE("a setting that cannot be had is an error, whatever else there is") {
  put_nccl({kSystem, kFramework});
  for (const std::string& outcome :
       {in_process([] { return load(kMine); }), load_beside(22809, kMine)}) {
    CHECK_THAT(outcome, Contains("error: SCALECOM_NCCL_LIBRARY is " + kMine.string()) &&
                            Contains("No such file") && Contains("leave it out"));
  }
  const test::TemporaryFolder folder;
  const std::string fifo = folder.path() + "/libnccl.so.2";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THAT(in_process([&] { return load(fifo); }),
             Contains("SCALECOM_NCCL_LIBRARY is " + fifo) && Contains("it is a pipe"));
  REQUIRE(mkfifo((folder.path() + "/libm.so.6").c_str(), 0600) == 0);
  CHECK_THAT(in_process([&] {
               fs::current_path(folder.path());  // No name without a slash is looked for there.
               return load("libm.so.6");
             }),
             Contains("libm.so.6 lacks ncclGetVersion"));
  CHECK_THAT(in_process([] { return load("/dev/full"); }),
             Contains("SCALECOM_NCCL_LIBRARY is /dev/full"));
  CHECK_THAT(in_process([&] { return load(folder.path()); }), Contains("Is a directory"));
  CHECK_THAT(in_process([] { return load("libm.so.6"); }),
             Contains("error: SCALECOM_NCCL_LIBRARY is libm.so.6, which cannot be used") &&
                 Contains("libm.so.6 lacks ncclGetVersion"));
  CHECK_THAT(in_process([] { return fmt::format("{}", probe({.named = "libm.so.6"}).version); }),
             Contains("error: SCALECOM_NCCL_LIBRARY is libm.so.6, which cannot be used"));
  CHECK_THAT(load_beside(21304, kFramework),
             Contains("SCALECOM_NCCL_LIBRARY is " + kFramework.string()) &&
                 Contains("NCCL 2.13.4 (" + kFramework.string() + ") is not supported"));
}

TEST_CASE("the NCCL that is in the process comes before the system's") {
  put_nccl({kSystem, kFramework});
  CHECK(load_beside(22703) == "2.27.3 of " + kFramework.string());
}

TEST_CASE(
    "the NCCL that is offered comes behind the setting and the process, before the system's") {
  put_nccl({kSystem, kMine, kFramework});
  CHECK(in_process([] { return load({}, kMine); }) == "2.28.9 of " + kMine.string());
  CHECK(in_process([] { return load(kFramework, kMine); }) == "2.28.9 of " + kFramework.string());
  const std::string beside = in_process([] {
    load_framework(kFramework, 22703);
    return load({}, kMine);
  });
  CHECK(beside == "2.27.3 of " + kFramework.string());
  put_nccl({kSystem});
  CHECK(in_process([] { return load({}, kMine); }) == "2.28.9 of " + kSystem.string());
  put_nccl({});
  CHECK_THAT(in_process([] { return load({}, kMine); }),
             Contains("error: NCCL cannot be loaded (" + kMine.string()) &&
                 Contains("; " + kSystem.string()));
}

TEST_CASE("a setting that names the NCCL in the process is met, by whatever path") {
  put_nccl({kSystem, kFramework});
  fs::create_symlink(kFramework, kMine);
  CHECK(load_beside(22703, kMine) == "2.27.3 of " + kFramework.string());
}

TEST_CASE("a second NCCL is not loaded beside the one in the process, and both are named") {
  put_nccl({kSystem, kMine, kFramework});
  CHECK_THAT(load_beside(22703, kMine),
             Contains("error: SCALECOM_NCCL_LIBRARY is " + kMine.string()) &&
                 Contains("NCCL 2.28.9 (" + kMine.string()) &&
                 Contains("NCCL 2.27.3 (" + kFramework.string()) && Contains("leave the setting") &&
                 Contains("LD_PRELOAD=" + kMine.string()));
}

TEST_CASE("two copies of NCCL that others have loaded are warned of, and the setting chooses") {
  put_nccl({kMine, kFramework});
  const auto load_as = [](const std::string& path) {
    return in_process([&] {
      load_framework(kFramework, 22703);
      load_framework(kMine, 22809);
      return load(path);
    });
  };
  CHECK_THAT(load_as(""), Contains("several copies of NCCL") &&
                              Contains("go over NCCL 2.27.3 (" + kFramework.string()) &&
                              Contains("also NCCL 2.28.9 (" + kMine.string()) &&
                              Contains("SCALECOM_NCCL_LIBRARY") && Contains("2.27.3 of"));
  CHECK(load_as(kMine) == "2.28.9 of " + kMine.string());
}

TEST_CASE("an NCCL that is too old is named with its file") {
  put_nccl({kFramework});
  CHECK_THAT(load_beside(21304),
             Contains("error: NCCL 2.13.4 (" + kFramework.string() + ") is not supported") &&
                 Contains("2.14"));
}

TEST_CASE("a look at NCCL leaves the process as it was") {
  put_nccl({kMine});
  const std::string outcome = in_process([] {
    const Facts facts = probe({.named = kMine});
    const bool is_left = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD) != nullptr;
    return fmt::format("{} of {}{}", facts.version, facts.path, is_left ? ", still there" : "");
  });
  CHECK(outcome == "22809 of " + kMine.string());
}
