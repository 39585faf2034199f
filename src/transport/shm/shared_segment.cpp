#include "transport/shm/shared_segment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

[[noreturn]] void fail(const char* call, std::size_t bytes, int error) {
  throw Error(StatusCode::unavailable, fmt::format("shared memory of {} bytes: {} failed: {}",
                                                   bytes, call, std::strerror(error)));
}

// Growing a file beyond the limit raises SIGXFSZ, which kills a program that does not ignore it.
bool is_beyond_file_size_limit(std::size_t bytes) {
  rlimit limit{};
  return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
         bytes > limit.rlim_cur;
}

// On older kernels any signal ends it, and what it had reserved is given back. So it goes in pieces
// that are done between two ticks of a profiler's timer.
void reserve(int descriptor, std::size_t bytes) {
  constexpr std::size_t kPieceBytes = 256 << 10;
  for (std::size_t begin = 0; begin < bytes;) {
    const std::size_t piece = std::min(kPieceBytes, bytes - begin);
    const int error =
        posix_fallocate(descriptor, static_cast<off_t>(begin), static_cast<off_t>(piece));
    if (error == EINTR) continue;
    if (error != 0) fail("posix_fallocate", bytes, error);
    begin += piece;
  }
}

}  // namespace

SharedSegment SharedSegment::create(std::size_t bytes) {
  SharedSegment segment(memfd_create("scalecom", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!segment.file_.is_open()) fail("memfd_create", bytes, errno);
  if (is_beyond_file_size_limit(bytes)) fail("ftruncate", bytes, EFBIG);
  if (ftruncate(segment.descriptor(), static_cast<off_t>(bytes)) != 0)
    fail("ftruncate", bytes, errno);
  reserve(segment.descriptor(), bytes);
  if (fcntl(segment.descriptor(), F_ADD_SEALS, kSeals) != 0) fail("fcntl", bytes, errno);
  segment.map(bytes);
  return segment;
}

SharedSegment SharedSegment::adopt(int descriptor, std::size_t bytes) {
  SharedSegment segment(descriptor);
  struct stat facts {};
  if (fstat(descriptor, &facts) != 0) fail("fstat", bytes, errno);
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (facts.st_size != static_cast<off_t>(bytes) || seals < 0 || (seals & kSeals) != kSeals) {
    throw Error(StatusCode::unavailable,
                fmt::format("shared memory: a file of {} bytes was handed over, one of {} sealed "
                            "bytes was expected",
                            facts.st_size, bytes));
  }
  segment.map(bytes);
  return segment;
}

void SharedSegment::map(std::size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor(), 0);
  if (memory == MAP_FAILED) fail("mmap", bytes, errno);
  memory_ = {static_cast<std::byte*>(memory), bytes};
}

SharedSegment::~SharedSegment() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : file_(std::move(other.file_)), memory_(std::exchange(other.memory_, {})) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(memory_, other.memory_);
  return *this;
}

}  // namespace scalecom
