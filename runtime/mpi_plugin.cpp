#include "runtime/mpi_plugin.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

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

}  // namespace

MpiPluginFacts probe_mpi_plugin() {
  void* plugin = open_plugin(plugin_path());
  if (plugin == nullptr) return {dlerror(), {}};
  const auto version = reinterpret_cast<MpiVersion>(dlsym(plugin, kMpiVersionSymbol));
  return {{}, version != nullptr ? version() : ""};
}

std::shared_ptr<MpiBackend> load_mpi_backend(const std::string& launched_by) {
  const std::string path = plugin_path();
  void* plugin = open_plugin(path);
  if (plugin == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("this process was launched by MPI ({} is set), but scalecom's MPI part "
                            "cannot be loaded: {}. Install Open MPI (libopenmpi-dev, openmpi-bin) "
                            "and build scalecom again; scalecom-info tells what was built",
                            launched_by, dlerror()));
  }
  const auto make = reinterpret_cast<MpiBackendFactory>(dlsym(plugin, kMpiBackendSymbol));
  if (make == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("{} is of another version of scalecom: {} is missing in it; reinstall "
                            "scalecom",
                            path, kMpiBackendSymbol));
  }
  return std::shared_ptr<MpiBackend>(make());
}

}  // namespace scalecom
