// Every rank runs the same cases; the job fails when one of them does.
#include "mpi_plugin/make_mpi_backend.hpp"
#include "tests/mpi/world.hpp"
#include "tests/support/run_cases.hpp"

namespace scalecom::test {

MpiBackend& mpi_world() {
  static const std::unique_ptr<MpiBackend> backend = make_mpi_backend(kLimit);
  return *backend;
}

}  // namespace scalecom::test

int main(int argc, char** argv) {
  scalecom::test::mpi_world();
  return scalecom::test::run_cases(argc, argv);
}
