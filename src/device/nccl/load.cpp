#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>
#include <sys/stat.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "device/nccl/api.hpp"
#include "scalecom/status.hpp"

namespace scalecom::device::nccl {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";
constexpr std::string_view kFileStem = "libnccl.so";
constexpr const char* kRemedy =
    "install NCCL 2.14 or newer (pip install nvidia-nccl-cu13, or the package libnccl2); "
    "SCALECOM_NCCL_LIBRARY names its libnccl.so.2 where that is not found";

using Library = std::unique_ptr<void, int (*)(void*)>;

Library open(const std::string& path, int flags = 0) {
  return {dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags), dlclose};
}

template <class Function>
void find(void* library, const char* symbol, std::function<Function>& function) {
  if (auto* found = reinterpret_cast<Function*>(dlsym(library, symbol))) function = found;
}

// An entry without which NCCL is of no use.
template <class Function>
void need(void* library, const std::string& path, const char* symbol,
          std::function<Function>& function) {
  find(library, symbol, function);
  if (function) return;
  throw Error(StatusCode::unavailable, fmt::format("{} lacks {}; {}", path, symbol, kRemedy));
}

// Files of NCCL that this process has loaded, oldest first.
std::vector<std::string> copies_in_process() {
  std::vector<std::string> paths;
  const auto add = [](dl_phdr_info* info, std::size_t, void* found) {
    const std::string_view path(info->dlpi_name);
    if (path.substr(path.rfind('/') + 1).starts_with(kFileStem)) {
      static_cast<std::vector<std::string>*>(found)->emplace_back(path);
    }
    return 0;
  };
  dl_iterate_phdr(add, &paths);
  return paths;
}

// Without a version where it has none.
Facts read_facts(void* library) {
  Facts facts;
  link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) == 0) facts.path = map->l_name;
  std::function<Result(int*)> get_version;
  find(library, "ncclGetVersion", get_version);
  if (get_version && get_version(&facts.version) != Result::success) facts.version = 0;
  return facts;
}

Facts read_facts(const std::string& path_in_process) {
  const Library library = open(path_in_process, RTLD_NOLOAD);
  return library == nullptr ? Facts{path_in_process} : read_facts(library.get());
}

std::string describe(const Facts& facts) {
  // Before 2.9 the number had a digit less.
  const int version = facts.version;
  const std::string text = version >= 10'000 ? version_text(version) : std::to_string(version);
  return fmt::format("NCCL {} ({})", text, facts.path);
}

Facts facts_of(void* library) {
  const Facts facts = read_facts(library);
  std::function<Result(int*)> get_version;
  need(library, facts.path, "ncclGetVersion", get_version);
  check_version(facts.version, facts.path);
  return facts;
}

[[noreturn]] void refuse_named(const std::string& path, std::string_view problem) {
  throw Error(StatusCode::unavailable,
              fmt::format("SCALECOM_NCCL_LIBRARY is {}, which cannot be loaded ({}); name NCCL's "
                          "libnccl.so.2 there, or leave it out, and the copy that is in the "
                          "process (PyTorch brings one) or the system's is taken",
                          path, problem));
}

// dlopen() would wait for the writer of a pipe. It looks for a name without a slash elsewhere.
bool is_pipe(const std::string& path) {
  struct stat facts {};
  return path.find('/') != std::string::npos && stat(path.c_str(), &facts) == 0 &&
         S_ISFIFO(facts.st_mode);
}

// The one that the setting names. `before`: what the process had.
Library open_named(const std::string& path, const std::vector<std::string>& before) {
  if (is_pipe(path)) refuse_named(path, "it is a pipe");
  Library named = open(path);
  if (named == nullptr) refuse_named(path, dlerror());
  for (const std::string& one : before) {
    if (open(one, RTLD_NOLOAD) == named) return named;
  }
  if (before.empty()) return named;
  throw Error(StatusCode::unavailable,
              fmt::format("SCALECOM_NCCL_LIBRARY is {}, {}, but this process has {} already, as "
                          "frameworks bring it, and two copies of NCCL get into each other's way: "
                          "leave the setting out, and that one is taken; or LD_PRELOAD={} makes "
                          "yours the one of the whole process",
                          path, describe(read_facts(named.get())),
                          describe(read_facts(before.front())), path));
}

Library open_library(const Files& files) {
  const std::vector<std::string> before = copies_in_process();
  if (!files.named.empty()) return open_named(files.named, before);
  // By its name in the process, whichever file it came from.
  if (Library loaded = open(kLibrary, RTLD_NOLOAD)) return loaded;
  std::vector<std::string> problems;
  for (const std::string& file : {files.offered, std::string(kLibrary)}) {
    if (file.empty()) continue;
    if (Library loaded = open(file)) return loaded;
    problems.emplace_back(dlerror());
  }
  throw Error(StatusCode::unavailable,
              fmt::format("NCCL cannot be loaded ({}); {}", fmt::join(problems, "; "), kRemedy));
}

Api read_api(void* library) {
  const Facts facts = facts_of(library);
  Api api;
  api.path = facts.path;
  api.version = facts.version;
  need(library, api.path, "ncclGetUniqueId", api.get_unique_id);
  need(library, api.path, "ncclCommInitRankConfig", api.comm_init_rank_config);
  find(library, "ncclCommSplit", api.comm_split);
  need(library, api.path, "ncclCommFinalize", api.comm_finalize);
  need(library, api.path, "ncclCommDestroy", api.comm_destroy);
  need(library, api.path, "ncclCommAbort", api.comm_abort);
  need(library, api.path, "ncclCommGetAsyncError", api.comm_get_async_error);
  need(library, api.path, "ncclGetErrorString", api.get_error_string);
  need(library, api.path, "ncclGetLastError", api.get_last_error);
  need(library, api.path, "ncclAllReduce", api.all_reduce);
  need(library, api.path, "ncclBroadcast", api.broadcast);
  need(library, api.path, "ncclAllGather", api.all_gather);
  need(library, api.path, "ncclReduceScatter", api.reduce_scatter);
  need(library, api.path, "ncclReduce", api.reduce);
  need(library, api.path, "ncclSend", api.send);
  need(library, api.path, "ncclRecv", api.receive);
  need(library, api.path, "ncclGroupStart", api.group_start);
  need(library, api.path, "ncclGroupEnd", api.group_end);
  return api;
}

// What `read` gives of the library that was opened. Its errors say whose choice that library was.
template <class Read>
auto read_opened(const Files& files, const Read& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (files.named.empty()) throw;
    throw Error(error.code(), fmt::format("SCALECOM_NCCL_LIBRARY is {}, which cannot be used: {}",
                                          files.named, error.what()));
  }
}

// What others of this process have loaded is theirs to sort out.
void warn_of_copies(const Facts& taken) {
  std::vector<std::string> others;
  for (const std::string& path : copies_in_process()) {
    const Facts facts = read_facts(path);
    if (facts.path != taken.path) others.push_back(describe(facts));
  }
  if (others.empty()) return;
  log_warning(
      fmt::format("this process has several copies of NCCL, which may get into each "
                  "other's way: CUDA tensors go over {}; there is also {}. "
                  "SCALECOM_NCCL_LIBRARY names another of them",
                  describe(taken), fmt::join(others, ", ")));
}

}  // namespace

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10'000, version / 100 % 100, version % 100);
}

void check_version(int version, const std::string& path) {
  if (version >= kVersionMin && version < kVersionEnd) return;
  throw Error(StatusCode::unavailable,
              fmt::format("{} is not supported: 2.14 up to the last NCCL 2 is; {}",
                          describe({path, version}), kRemedy));
}

Facts probe(const Files& files) {
  const Library opened = open_library(files);
  return read_opened(files, [&] { return facts_of(opened.get()); });
}

Api load_api(const Files& files) {
  Library opened = open_library(files);
  Api api = read_opened(files, [&] { return read_api(opened.get()); });
  opened.release();
  if (files.named.empty()) warn_of_copies({api.path, api.version});
  return api;
}

}  // namespace scalecom::device::nccl
