#include "runtime/mpi_plugin.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <string_view>
#include <utility>

#include "base/deadline.hpp"
#include "base/log.hpp"
#include "runtime/coordinator.hpp"
#include "runtime/start_thread.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr const char* kMpiPlugin = "libscalecom_mpi.so";
constexpr const char* kMpichPlugin = "libscalecom_mpich.so";
// The same for a libmpi.so.12: that of Intel MPI, MVAPICH, and MPICH where it is not Debian's.
constexpr const char* kMpi12Plugin = "libscalecom_mpi12.so";

std::string path_of(const char* plugin) {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&path_of), &info) == 0) return plugin;
  return (std::filesystem::path(info.dli_fname).parent_path() / plugin).string();
}

bool is_in_process(const char* library) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return false;
  dlclose(handle);
  return true;
}

struct OpenPlugin {
  void* library = nullptr;
  std::string path;
  std::string problem;  ///< why none before it was taken
};

// A process has one MPI: that which the program has loaded, as mpi4py does, or its launcher's.
std::array<const char*, 3> plugins_in_order(const MpiLaunch& launch) {
  if (is_in_process("libmpi.so.12")) return {kMpi12Plugin, kMpichPlugin, kMpiPlugin};
  if (is_in_process("libmpich.so.12") ||
      (launch.variable == kMpichVariable && !is_in_process("libmpi.so.40"))) {
    return {kMpichPlugin, kMpi12Plugin, kMpiPlugin};
  }
  return {kMpiPlugin, kMpichPlugin, kMpi12Plugin};
}

// Open MPI 1.10 calls its library libmpi.so.12 as well, and the loader takes it for MPICH's.
bool is_led_astray(std::string_view plugin, void* library) {
  return plugin != kMpiPlugin && dlsym(library, "ompi_mpi_comm_world") != nullptr;
}

// The first that fits. Never unloaded: MPI cannot be initialised twice in a process.
OpenPlugin open_plugin(const MpiLaunch& launch) {
  OpenPlugin open;
  for (const char* plugin : plugins_in_order(launch)) {
    open.path = path_of(plugin);
    open.library = dlopen(open.path.c_str(), RTLD_NOW | RTLD_LOCAL);
    std::string problem;
    if (open.library == nullptr) {
      problem = dlerror();
    } else if (is_led_astray(plugin, open.library)) {
      problem =
          open.path + ": the libmpi.so.12 here is not MPICH's but Open MPI's, which is too old";
      dlclose(std::exchange(open.library, nullptr));
    } else {
      return open;
    }
    open.problem += (open.problem.empty() ? "" : "; ") + problem;
  }
  return open;
}

// Null for a library of another version.
const MpiPlugin* find_plugin(void* library) {
  const auto entry = reinterpret_cast<MpiPluginEntry>(dlsym(library, kMpiPluginSymbol));
  return entry != nullptr ? entry() : nullptr;
}

// Whoever changes it first, the thread in MPI or the one that waits for it, decides.
enum class Start { pending, over, given_up };

// How often a wait for MPI_Init asks whether to go on.
constexpr auto kInterruptPeriod = std::chrono::milliseconds(100);

// How far apart ranks may be in ending a session that is shut down: one may wait for its device.
constexpr std::chrono::seconds kMeetingTime(20);

// Another rank may wait for what MPI here has taken and not sent.
class Progress final : public Interrupt {
 public:
  explicit Progress(MpiBackend& backend) : backend_(backend) {}
  void check() override { backend_.progress(); }

 private:
  MpiBackend& backend_;
};

// Whether an init() in this process has left MPI to what it waits for: nobody can take that back.
std::atomic<bool>& was_given_up() {
  static std::atomic<bool> flag{false};
  return flag;
}

void initialise_within(const MpiPlugin& plugin, int ranks, Bootstrap::Limit limit,
                       Interrupt& interrupt) {
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
  start_thread("MPI_Init", std::move(task)).detach();
  const Deadline deadline = Deadline::after(limit);
  const auto give_up = [&] {
    Start expected = Start::pending;
    return start->compare_exchange_strong(expected, Start::given_up);
  };
  while (is_over.wait_for(kInterruptPeriod) == std::future_status::timeout) {
    if (deadline.has_passed() && give_up()) throw ranks_missing(ranks, limit);
    try {
      interrupt.check();
    } catch (const Error&) {
      if (give_up()) throw;
    }
  }
  is_over.get();
}

std::shared_ptr<MpiBackend> start(const MpiPlugin& plugin, int ranks, Bootstrap::Limit limit,
                                  Interrupt& interrupt) {
  if (was_given_up()) {
    throw Error(StatusCode::unavailable,
                "an init() in this process gave up waiting for other ranks in MPI, which cannot "
                "begin anew: start the process again");
  }
  try {
    initialise_within(plugin, ranks, limit, interrupt);
    return plugin.make_backend(limit, &interrupt);
  } catch (const Error& error) {
    const bool is_given_up =
        error.code() == StatusCode::timed_out || error.code() == StatusCode::shut_down;
    if (is_given_up) was_given_up() = true;
    throw;
  }
}

// An MPI that another one's mpirun starts takes itself for alone.
Error not_its_launcher(const MpiLaunch& launch, const MpiPlugin& plugin) {
  return Error(StatusCode::unavailable,
               fmt::format("the launcher started {} processes ({}), and {}, which scalecom uses "
                           "here, knows of one: start the job with the mpirun of that MPI (by srun "
                           "with --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH, --mpi=none without "
                           "MPI), or install the headers of the launcher's (libopenmpi-dev, "
                           "libmpich-dev) and build scalecom again",
                           launch.ranks, launch.variable, plugin.library_version()));
}

}  // namespace

MpiPluginFacts probe_mpi_plugin() {
  const OpenPlugin open = open_plugin(find_mpi_launch());
  if (open.library == nullptr) return {open.problem, {}};
  const MpiPlugin* plugin = find_plugin(open.library);
  return {{}, plugin != nullptr ? plugin->library_version() : ""};
}

std::shared_ptr<MpiBackend> load_mpi_backend(const MpiLaunch& launch, Bootstrap::Limit limit,
                                             Interrupt& interrupt) {
  const OpenPlugin open = open_plugin(launch);
  if (open.library == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("this process was launched by MPI ({} is set), but scalecom's MPI part "
                            "cannot be loaded: {}. Install Open MPI (libopenmpi-dev, openmpi-bin) "
                            "and build scalecom again; srun --mpi=none needs no MPI. scalecom-info "
                            "tells what was built",
                            launch.variable, open.problem));
  }
  const MpiPlugin* plugin = find_plugin(open.library);
  if (plugin == nullptr) {
    throw Error(StatusCode::unavailable,
                fmt::format("{} is of another version of scalecom: {} is missing in it; reinstall "
                            "scalecom",
                            open.path, kMpiPluginSymbol));
  }
  const std::shared_ptr<MpiBackend> backend = start(*plugin, launch.ranks, limit, interrupt);
  if (launch.ranks > 1 && backend->bootstrap().size() == 1) throw not_its_launcher(launch, *plugin);
  return backend;
}

void end_mpi(MpiBackend& backend, Coordinator& coordinator) {
  if (!coordinator.has_ended_in_order()) return backend.set_failed();
  Progress progress(backend);
  try {
    coordinator.meet_at_end({Deadline::after(kMeetingTime), &progress});
  } catch (const Error& error) {
    backend.set_failed();
    const bool is_late = error.code() == StatusCode::timed_out;
    log_warning(fmt::format(
        "the ranks did not end the session together ({}): scalecom leaves out MPI_Finalize, which "
        "would wait for all of them",
        is_late ? fmt::format("one was not there within {} s", kMeetingTime.count())
                : error.what()));
  }
}

}  // namespace scalecom
