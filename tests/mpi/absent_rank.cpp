// A rank never calls init(): the other gets an error that says what to look for, in time. The
// arguments: a folder, "comes" or "absent", who initialises MPI ("nobody" before scalecom does, or
// "program"), and what ends the wait: "time" or "stop".

#include <mpi.h>

#include <stop_token>
#include <string_view>

#include "scalecom/scalecom.hpp"
#include "tests/mpi/absence.hpp"

int main(int argc, char** argv) {
  using namespace scalecom;
  if (argc != 5) return 1;
  const std::string folder = argv[1];
  const bool is_absent = std::string_view(argv[2]) == "absent";
  if (std::string_view(argv[3]) == "program") {
    int provided = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  }
  if (is_absent) test::stay_away(folder);
  Config config = Config::from_environment();
  std::stop_source called_off;
  const auto connect = [&] { Session::connect(config, called_off.get_token()); };
  bool is_good = false;
  if (std::string_view(argv[4]) == "stop") {
    config.connect_timeout_s = 120.0;
    called_off.request_stop();
    is_good = test::ends_with(StatusCode::shut_down, "init() was called off", connect);
  } else {
    config.connect_timeout_s = 1.0;
    is_good = test::ends_in_time(1.0, connect);
  }
  // MPI that was given up is not used again.
  is_good = is_good && test::ends_with(StatusCode::unavailable, "start the process again", connect);
  test::give_verdict(is_good, folder);
}
