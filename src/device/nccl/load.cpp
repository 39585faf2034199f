#include <dlfcn.h>
#include <fmt/format.h>

#include <memory>

#include "device/nccl/api.hpp"
#include "scalecom/status.hpp"

namespace scalecom::device::nccl {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";
constexpr const char* kRemedy =
    "install NCCL 2.14 or newer (pip install nvidia-nccl-cu13, or the package libnccl2)";

template <class Function>
void find(void* library, const char* symbol, std::function<Function>& function) {
  if (auto* found = reinterpret_cast<Function*>(dlsym(library, symbol))) function = found;
}

// An entry without which NCCL is of no use.
template <class Function>
void need(void* library, const char* symbol, std::function<Function>& function) {
  find(library, symbol, function);
  if (function) return;
  throw Error(StatusCode::unavailable, fmt::format("NCCL lacks {}; {}", symbol, kRemedy));
}

void* open_library(const std::vector<std::string>& paths) {
  // By its name in the process, whichever file it came from.
  if (void* loaded = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return loaded;
  std::string tried;
  for (const std::string& path : paths) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    tried += fmt::format("{}; ", dlerror());
  }
  if (void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) return library;
  tried += dlerror();
  throw Error(StatusCode::unavailable,
              fmt::format("NCCL cannot be loaded ({}); {}", tried, kRemedy));
}

std::string path_of(void* symbol) {
  Dl_info info{};
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : kLibrary;
}

Facts facts_of(void* library) {
  std::function<Result(int*)> get_version;
  need(library, "ncclGetVersion", get_version);
  Facts facts{path_of(dlsym(library, "ncclGetVersion"))};
  if (get_version(&facts.version) != Result::success) facts.version = 0;
  check_version(facts.version, facts.path);
  return facts;
}

}  // namespace

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10'000, version / 100 % 100, version % 100);
}

void check_version(int version, const std::string& path) {
  if (version >= kVersionMin && version < kVersionEnd) return;
  // Before 2.9 the number had a digit less.
  const std::string text = version >= 10'000 ? version_text(version) : std::to_string(version);
  throw Error(StatusCode::unavailable,
              fmt::format("NCCL {} ({}) is not supported: 2.14 up to the last NCCL 2 is; {}", text,
                          path, kRemedy));
}

Facts probe(const std::vector<std::string>& paths) {
  const std::unique_ptr<void, int (*)(void*)> library(open_library(paths), dlclose);
  return facts_of(library.get());
}

Api load_api(const std::vector<std::string>& paths) {
  void* library = open_library(paths);
  Api api;
  const Facts facts = facts_of(library);
  api.path = facts.path;
  api.version = facts.version;
  need(library, "ncclGetUniqueId", api.get_unique_id);
  need(library, "ncclCommInitRankConfig", api.comm_init_rank_config);
  find(library, "ncclCommSplit", api.comm_split);
  need(library, "ncclCommFinalize", api.comm_finalize);
  need(library, "ncclCommDestroy", api.comm_destroy);
  need(library, "ncclCommAbort", api.comm_abort);
  need(library, "ncclCommGetAsyncError", api.comm_get_async_error);
  need(library, "ncclGetErrorString", api.get_error_string);
  need(library, "ncclGetLastError", api.get_last_error);
  need(library, "ncclAllReduce", api.all_reduce);
  need(library, "ncclBroadcast", api.broadcast);
  need(library, "ncclAllGather", api.all_gather);
  need(library, "ncclReduceScatter", api.reduce_scatter);
  need(library, "ncclReduce", api.reduce);
  need(library, "ncclSend", api.send);
  need(library, "ncclRecv", api.receive);
  need(library, "ncclGroupStart", api.group_start);
  need(library, "ncclGroupEnd", api.group_end);
  return api;
}

}  // namespace scalecom::device::nccl
