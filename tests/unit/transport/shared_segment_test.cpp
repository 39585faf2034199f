#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>
#include <utility>

#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"
#include "transport/shm/board.hpp"
#include "transport/shm/shared_segment.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

// Of a file that was never in a folder, as those in /dev/shm are, it begins with /memfd:
std::string origin_of(int descriptor) {
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor));
}

// Counts while it is not 0.
int calls_of_timer = 0;

}  // namespace

// In place of the C library's. With a timer as in a process that a profiler looks at each
// millisecond, on older kernels: what takes longer ends at a signal, other calls now and then.
extern "C" int posix_fallocate(int descriptor, off_t begin, off_t bytes) {
  if (calls_of_timer > 0 && (bytes > 1 << 20 || ++calls_of_timer % 3 == 0)) return EINTR;
  return fallocate(descriptor, 0, begin, bytes) == 0 ? 0 : errno;
}

TEST_CASE("a segment is zero, seen by whoever adopts its descriptor, and of fixed size") {
  const SharedSegment made = SharedSegment::create(8192);
  for (const std::byte byte : made.bytes()) REQUIRE(byte == std::byte{});
  const SharedSegment taken = SharedSegment::adopt(dup(made.descriptor()), 8192);
  made.bytes()[8000] = std::byte{7};
  CHECK(taken.bytes()[8000] == std::byte{7});
  CHECK(ftruncate(made.descriptor(), 100) != 0);
  CHECK(ftruncate(made.descriptor(), 100'000) != 0);
}

TEST_CASE("a foreign file is not adopted") {
  CHECK_THROWS_WITH(SharedSegment::adopt(dup(SharedSegment::create(4096).descriptor()), 8192),
                    Contains("4096 bytes was handed over"));
  const int unsealed = memfd_create("unsealed", MFD_CLOEXEC);
  REQUIRE(ftruncate(unsealed, 4096) == 0);
  CHECK_THROWS_WITH(SharedSegment::adopt(unsealed, 4096), Contains("sealed"));
  CHECK_THROWS_WITH(SharedSegment::adopt(-1, 4096), Contains("fstat"));
}

TEST_CASE("memory that cannot be had is an error that says so, not a crash later") {
  const auto [resource, call] = GENERATE(std::pair(RLIMIT_NOFILE, "memfd_create failed"),
                                         std::pair(RLIMIT_FSIZE, "ftruncate failed"));
  rlimit before{};
  getrlimit(resource, &before);
  const rlimit none{0, before.rlim_max};
  setrlimit(resource, &none);
  std::string message;
  try {
    SharedSegment::create(4096);
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(resource, &before);
  CHECK_THAT(message, Contains("shared memory of 4096 bytes") && Contains(call));
}

TEST_CASE("a segment is made also while a timer's signals come again and again") {
  calls_of_timer = 1;
  std::size_t bytes = 0;
  std::string message;
  try {
    bytes = SharedSegment::create(8 << 20).bytes().size();
  } catch (const Error& error) {
    message = error.what();
  }
  const int calls = std::exchange(calls_of_timer, 0);
  CHECK(message == "");
  CHECK(bytes == 8 << 20);
  CHECK(calls > 8);
}

TEST_CASE("a process that is killed leaves nothing in /dev/shm, and its counters stay readable") {
  const SharedSegment segment = SharedSegment::create(Board::bytes_for(2, 64));
  Board board(segment.bytes(), 0, 2, 64);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    Board theirs(segment.bytes(), 1, 2, 64);
    theirs.publish(Board::Phase::posted, 5);
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(board.others_have_reached(Board::Phase::posted, 5));
  CHECK_FALSE(board.others_have_reached(Board::Phase::posted, 6));
  CHECK_THAT(origin_of(segment.descriptor()), Catch::StartsWith("/memfd:"));
}
