#include <mpi.h>

#include <limits>
#include <memory>

#include "scalecom/export.hpp"
#include "scalecom/status.hpp"
#include "tools/bench/peer_library.hpp"

namespace scalecom::bench {
namespace {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(StatusCode::rank_lost, std::string(call) + " failed: " + text);
}

MPI_Datatype type_of(DataType dtype) {
  switch (dtype) {
    case DataType::uint8: return MPI_UINT8_T;
    case DataType::int8: return MPI_INT8_T;
    case DataType::int16: return MPI_INT16_T;
    case DataType::int32: return MPI_INT32_T;
    case DataType::int64: return MPI_INT64_T;
    case DataType::float32: return MPI_FLOAT;
    case DataType::float64: return MPI_DOUBLE;
    default:
      throw Error(StatusCode::invalid_argument,
                  std::string("MPI has no type for ") + to_string(dtype) +
                      "; with --peers use -d int8, uint8, int32, int64, float or double");
  }
}

MPI_Op op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return MPI_SUM;
    case ReduceOp::min: return MPI_MIN;
    case ReduceOp::max: return MPI_MAX;
    case ReduceOp::product: return MPI_PROD;
    default:
      throw Error(StatusCode::invalid_argument, std::string("MPI has no reduction ") +
                                                    to_string(op) +
                                                    "; with --peers use -o sum, min, max or prod");
  }
}

class MpiLibrary final : public PeerLibrary {
 public:
  // The communicator is never freed: freeing is collective, and after an error the others may not
  // come. MPI_Finalize, at the process's end, takes it along.
  MpiLibrary() {
    check(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }

  std::string version() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    const std::string version(text);
    return version.substr(0, version.find_first_of(",\n"));
  }

  void barrier() override { check(MPI_Barrier(communicator_), "MPI_Barrier"); }

  void all_reduce(const void* input, void* output, std::int64_t count, DataType dtype,
                  ReduceOp op) override {
    if (count > std::numeric_limits<int>::max()) {
      throw Error(StatusCode::invalid_argument,
                  "MPI_Allreduce takes at most 2,147,483,647 elements, not " +
                      std::to_string(count) + "; with --peers choose a smaller -e");
    }
    check(MPI_Allreduce(input == output ? MPI_IN_PLACE : input, output, static_cast<int>(count),
                        type_of(dtype), op_of(op), communicator_),
          "MPI_Allreduce");
  }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
};

}  // namespace
}  // namespace scalecom::bench

// What scalecom-bench looks up: kMpiPeerSymbol.
extern "C" SCALECOM_API scalecom::bench::PeerLibrary* scalecom_bench_make_mpi_peer_v1() {
  int is_initialized = 0;
  MPI_Initialized(&is_initialized);
  if (is_initialized == 0) {
    throw scalecom::Error(
        scalecom::StatusCode::unavailable,
        "--peers times MPI beside scalecom, and this process was not launched by MPI; run "
        "mpirun -np 2 scalecom-bench --peers");
  }
  return std::make_unique<scalecom::bench::MpiLibrary>().release();
}
