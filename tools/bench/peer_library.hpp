#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "scalecom/tensor.hpp"

namespace scalecom::bench {

/// Another library's all-reduce between the same ranks, to be timed beside scalecom's. Called by
/// the main thread while the session is idle. Its calls have no deadline, because waiting in any
/// other way would measure something else: a rank that is lost meanwhile leaves the end to mpirun.
class PeerLibrary {
 public:
  virtual ~PeerLibrary() = default;

  /// Name and version, such as "Open MPI v4.1.4".
  virtual std::string version() const = 0;

  virtual void barrier() = 0;

  /// output = op over ranks of input, both `count` elements; the same memory means in place. Throws
  /// Error(invalid_argument) for types, reductions and counts that the library does not know.
  virtual void all_reduce(const void* input, void* output, std::int64_t count, DataType dtype,
                          ReduceOp op) = 0;
};

/// MPI, on a communicator of its own. To be called on every rank. Throws Error(unavailable) where
/// its module cannot be loaded, with the loader's reason, or the program was not launched by MPI.
std::unique_ptr<PeerLibrary> make_peer_library();

/// MPI's implementation is a module, so that scalecom-bench starts where MPI is missing. Its symbol
/// has the type MpiPeerFactory; the caller owns the result.
inline constexpr const char* kMpiPeerModule = "libscalecom_bench_mpi.so";
inline constexpr const char* kMpiPeerSymbol = "scalecom_bench_make_mpi_peer_v1";
using MpiPeerFactory = PeerLibrary* (*)();

}  // namespace scalecom::bench
