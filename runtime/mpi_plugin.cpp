#include "runtime/mpi_plugin.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <thread>
#include <utility>

#include "base/deadline.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr const char* kMpiPlugin = "libscalecom_mpi.so";

std::string plugin_path() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&plugin_path), &info) == 0) return kMpiPlugin;
  return (std::filesystem::path(info.dli_fname).parent_path() / kMpiPlugin).string();
}

// Never unloaded: MPI cannot be initialised twice in a process.
void* open_plugin(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }

// Null for a library of another version.
const MpiPlugin* find_plugin(void* library) {
  const auto entry = reinterpret_cast<MpiPluginEntry>(dlsym(library, kMpiPluginSymbol));
  return entry != nullptr ? entry() : nullptr;
}

// Whoever changes it first, the thread in MPI or the one that waits for it, decides.
enum class Start { pending, over, given_up };

void initialise_within(const MpiPlugin& plugin, int ranks, Bootstrap::Limit limit) {
  const auto start = std::make_shared<std::atomic<Start>>(Start::pending);
  std::packaged_task<void()> task([&plugin, start] {
    const auto finish = [&] {
      Start expected = Start::pending;
      return start->compare_exchange_strong(expected, Start::over);
    };
    try {
      plugin.initialise();
    } catch (const Error&) {
      finish();
      throw;
    }
    // Finalizing would wait for the other ranks again, and this one has already left them.
    if (!finish()) plugin.renounce_finalize();
  });
  std::future<void> is_over = task.get_future();
  std::thread(std::move(task)).detach();
  if (is_over.wait_until(Deadline::after(limit).at()) == std::future_status::timeout) {
    Start expected = Start::pending;
    if (start->compare_exchange_strong(expected, Start::given_up)) {
      throw ranks_missing(ranks, limit);
    }
  }
  is_over.get();
}

}  // namespace

MpiPluginFacts probe_mpi_plugin() {
  void* library = open_plugin(plugin_path());
  if (library == nullptr) return {dlerror(), {}};
  const MpiPlugin* plugin = find_plugin(library);
  return {{}, plugin != nullptr ? plugin->library_version() : ""};
}

std::shared_ptr<MpiBackend> load_mpi_backend(const MpiLaunch& launch, Bootstrap::Limit limit) {
  const std::string path = plugin_path();
  void* library = open_plugin(path);
  if (library == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("this process was launched by MPI ({} is set), but scalecom's MPI part "
                            "cannot be loaded: {}. Install Open MPI (libopenmpi-dev, openmpi-bin) "
                            "and build scalecom again; scalecom-info tells what was built",
                            launch.variable, dlerror()));
  }
  const MpiPlugin* plugin = find_plugin(library);
  if (plugin == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("{} is of another version of scalecom: {} is missing in it; reinstall "
                            "scalecom",
                            path, kMpiPluginSymbol));
  }
  initialise_within(*plugin, launch.ranks, limit);
  return plugin->make_backend(limit);
}

}  // namespace scalecom
