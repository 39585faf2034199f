// A library that passes for libnccl.so.2: its version is what the test wants, a communicator is
// the number of its ranks, and it connects ranks whose unique id says "fake".

#include <cstddef>
#include <cstdint>
#include <cstring>

struct UniqueId {
  char bytes[128];
};

struct Config {
  std::size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
};

namespace {

int& version() {
  static int number = 22809;
  return number;
}

}  // namespace

extern "C" {

void fake_nccl_set_version(int number) { version() = number; }

int ncclGetVersion(int* number) {
  *number = version();
  return 0;
}

int ncclGetUniqueId(UniqueId* id) {
  std::memcpy(id->bytes, "fake", 5);
  return 0;
}

int ncclCommInitRankConfig(void** comm, int ranks, UniqueId id, int rank, const Config* config) {
  const bool is_right = std::strcmp(id.bytes, "fake") == 0 && rank >= 0 && rank < ranks &&
                        config->magic == 0xcafebeef && config->version == 21400 &&
                        config->size == 24 && config->blocking == 0;
  if (!is_right) return 4;
  *comm = reinterpret_cast<void*>(static_cast<std::uintptr_t>(ranks));
  return 7;
}

int ncclCommFinalize(void*) { return 0; }
int ncclCommDestroy(void*) { return 0; }
int ncclCommAbort(void*) { return 0; }
int ncclCommGetAsyncError(void*, int* error) {
  *error = 0;
  return 0;
}
const char* ncclGetErrorString(int) { return "a name"; }
const char* ncclGetLastError(void*) { return "the last words"; }

// Adds the ranks' equal values.
int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int op, void* comm,
                  void*) {
  if (type != 7 || op != 0) return 4;
  const auto ranks = static_cast<float>(reinterpret_cast<std::uintptr_t>(comm));
  for (std::size_t i = 0; i < count; ++i) {
    static_cast<float*>(to)[i] = ranks * static_cast<const float*>(from)[i];
  }
  return 0;
}

int ncclBroadcast(const void*, void*, std::size_t, int, int, void*, void*) { return 5; }
int ncclAllGather(const void*, void*, std::size_t, int, void*, void*) { return 0; }
int ncclReduceScatter(const void*, void*, std::size_t, int, int, void*, void*) { return 0; }
int ncclReduce(const void*, void*, std::size_t, int, int, int, void*, void*) { return 0; }
int ncclSend(const void*, std::size_t, int, int, void*, void*) { return 0; }
int ncclRecv(void*, std::size_t, int, int, void*, void*) { return 0; }
int ncclGroupStart() { return 0; }
int ncclGroupEnd() { return 0; }

}  // extern "C"
