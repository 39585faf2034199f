// A rank connects and does not come to an exchange: the other gets an error in time, the next
// exchange says the same at once, and its backend goes without waiting. The arguments: a folder,
// "comes" or "absent".

#include <string_view>

#include "mpi_plugin/make_mpi_backend.hpp"
#include "mpi_plugin/mpi_process.hpp"
#include "tests/mpi/absence.hpp"

int main(int argc, char** argv) {
  using namespace scalecom;
  if (argc != 3) return 1;
  ensure_mpi();
  auto backend = make_mpi_backend(Bootstrap::Limit(60.0));
  if (std::string_view(argv[2]) == "absent") test::stay_away(argv[1]);
  const auto exchange = [&] { backend->bootstrap().exchange("a blob", Bootstrap::Limit(0.5)); };
  const bool is_good = test::ends_in_time(0.5, exchange) && test::ends_in_time(0.0, exchange);
  backend.reset();
  test::give_verdict(is_good, argv[1]);
}
