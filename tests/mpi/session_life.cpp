// Who starts and ends MPI. "own": the program initialises MPI, sessions come and go in between, and
// MPI is still the program's afterwards. "none": the library initialises MPI, two sessions follow
// each other, and MPI is finalized at the process's exit and not before. Exits with 0 when all of
// it held.

#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "scalecom/scalecom.hpp"

namespace {

bool is_initialized() {
  int flag = 0;
  MPI_Initialized(&flag);
  return flag != 0;
}

bool is_finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

bool holds(bool claim, const char* what) {
  if (!claim) std::printf("does not hold: %s\n", what);
  return claim;
}

// Registered before the library's own, so called after it.
void expect_finalized() {
  if (!holds(is_finalized(), "MPI is finalized at exit")) _exit(1);
}

bool sums_in_a_session() {
  const auto session = scalecom::Session::connect(scalecom::Config::from_environment());
  const int size = session->topology().size;
  float value = 1.0f;
  const scalecom::TensorView view{&value, scalecom::DataType::float32, {1}, {}};
  scalecom::AllReduceOptions options;
  options.op = scalecom::ReduceOp::sum;
  const scalecom::Status status = session->all_reduce("value", view, view, options).wait();
  session->barrier().wait();
  session->shutdown();
  return holds(status.is_ok(), status.message().c_str()) &&
         holds(value == static_cast<float>(size), "the sum is the number of ranks") &&
         holds(session->report().transport == "mpi", "the session runs over MPI") &&
         holds(!session->report().cuda_aware.empty(), "MPI is asked whether it takes CUDA memory");
}

bool sum_of_the_programs_own() {
  int size = 0;
  int sum = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  return holds(sum == size, "MPI is the program's after a session");
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_own = argc > 1 && std::string(argv[1]) == "own";
  try {
    if (is_own) {
      int provided = 0;
      MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    } else {
      std::atexit(expect_finalized);
    }
    for (int session = 0; session < 2; ++session) {
      if (!sums_in_a_session()) return 1;
      if (!holds(is_initialized() && !is_finalized(), "MPI outlives the session")) return 1;
      if (is_own && !sum_of_the_programs_own()) return 1;
    }
  } catch (const scalecom::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  if (is_own) MPI_Finalize();
  return 0;
}
