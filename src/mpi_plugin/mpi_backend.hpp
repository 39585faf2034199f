#pragma once

#include <memory>
#include <string>

#include "collective/collectives.hpp"
#include "transport/bootstrap.hpp"
#include "transport/transport.hpp"

namespace scalecom {

/// Everything that needs MPI, behind an interface without MPI's types: it lives in a library for
/// each MPI (libscalecom_mpi.so and others), which is loaded only when a job was launched by MPI,
/// so that libscalecom itself loads on machines without one.
///
/// All calls (construction included) come from one thread at a time. Initialises MPI only if nobody
/// has; finalizes only what it initialised, at the process's exit.
class MpiBackend {
 public:
  virtual ~MpiBackend() = default;

  virtual Bootstrap& bootstrap() noexcept = 0;
  virtual std::unique_ptr<Transport> make_transport() = 0;
  /// MPI's own collectives, as another implementation of the same interface. Blocking MPI calls
  /// are replaced by their non-blocking forms, tested under the wait discipline.
  virtual std::unique_ptr<Collectives> make_collectives() = 0;
  /// First line of MPI_Get_library_version.
  virtual std::string library_version() const = 0;
  /// "MPI_THREAD_MULTIPLE", ...
  virtual std::string thread_level() const = 0;
  /// Whether MPI says that it takes CUDA memory: "yes", "no", or "not said" where it has no words
  /// for it.
  virtual std::string cuda_aware() const = 0;
  /// MPI sends what it still holds of messages that count as sent, for who waits without it.
  virtual void progress() = 0;
  /// The session failed: no collective call of MPI (nor MPI_Finalize) may be made any more.
  virtual void set_failed() noexcept = 0;
};

/// What such a library offers.
struct MpiPlugin {
  /// MpiBackend::library_version() without initialising MPI.
  const char* (*library_version)();
  /// Makes MPI ready in this process, from whatever thread. Returns when all processes of the job
  /// have initialised MPI, without a deadline, which MPI does not know here. Throws
  /// Error(unavailable) when the thread level of an already initialised MPI is below
  /// MPI_THREAD_SERIALIZED (naming the level and the remedy).
  void (*initialise)();
  /// This process will not finalize MPI.
  void (*renounce_finalize)();
  /// After initialise(). Throws ranks_missing() when not all ranks come within the limit, or what
  /// the interrupt throws; null: there is none.
  std::unique_ptr<MpiBackend> (*make_backend)(Bootstrap::Limit limit, Interrupt* interrupt);
};

/// Symbol in it with the type MpiPluginEntry.
inline constexpr const char* kMpiPluginSymbol = "scalecom_mpi_plugin_v5";
using MpiPluginEntry = const MpiPlugin* (*)();

}  // namespace scalecom
