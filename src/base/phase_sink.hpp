#pragma once

namespace scalecom {

/// Is told what a piece of work does in turn, for whoever keeps time. Called by the thread that
/// does the work.
class PhaseSink {
 public:
  virtual ~PhaseSink() = default;
  /// From now on the work is in `phase`, one of the constants below, and the one before is over.
  /// What is entered again goes on.
  virtual void enter(const char* phase) = 0;
};

/// The phases of docs/howto/read-a-timeline.md.
namespace phases {

inline constexpr const char* kPack = "MEMCPY_IN_FUSION_BUFFER";
inline constexpr const char* kAllReduce = "MPI_ALLREDUCE";
inline constexpr const char* kUnpack = "MEMCPY_OUT_FUSION_BUFFER";

inline constexpr const char* kHostAverage = "HOST_AVERAGE";
inline constexpr const char* kSelect = "SELECT";
inline constexpr const char* kIndexExchange = "INDEX_EXCHANGE";
inline constexpr const char* kResidualUpdate = "RESIDUAL_UPDATE";
inline constexpr const char* kValuesAllReduce = "VALUES_ALLREDUCE";
inline constexpr const char* kWriteResult = "WRITE_RESULT";

}  // namespace phases
}  // namespace scalecom
