// Rank 2 of 3 dies, and what it has forked keeps its connections open, so that the others see
// nothing of it while they shut down in good order. Then that ends, too, and so do they, at once:
// without MPI_Finalize, which would wait.

#include <mpi.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "scalecom/scalecom.hpp"
#include "tests/mpi/absence.hpp"
#include "tests/support/yield_until.hpp"

namespace {

using namespace scalecom;

constexpr std::chrono::seconds kLimit(20);

int my_rank = 0;

// Registered before the library's own, so called after it.
void tell_end() {
  int is_finalized = 0;
  MPI_Finalized(&is_finalized);
  if (!test::holds(is_finalized == 0, "MPI is not finalized")) _exit(1);
  std::printf("rank %d ended\n", my_rank);
  std::fflush(stdout);
}

// It has this process's connections; the alarm ends it where nobody else does.
pid_t fork_keeper() {
  const pid_t keeper = fork();
  if (keeper != 0) return keeper;
  alarm(60);
  close(STDOUT_FILENO);  // mpirun waits for its end.
  close(STDERR_FILENO);
  while (true) pause();
}

bool is_alive(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.at(name_end + 2) != 'Z';
}

struct Processes {
  std::int32_t last;    ///< the last rank's
  std::int32_t keeper;  ///< forked by it
};

Processes share_processes(Session& session) {
  const bool is_last = my_rank == session.topology().size - 1;
  Processes processes{is_last ? getpid() : 0, is_last ? fork_keeper() : 0};
  const TensorView view{&processes, DataType::int32, {2}, {}};
  session.broadcast("processes", view, session.topology().size - 1).wait();
  return processes;
}

}  // namespace

int main() {
  std::atexit(tell_end);
  const auto session = Session::connect(Config::from_environment());
  my_rank = session->topology().rank;
  const Processes processes = share_processes(*session);
  session->barrier().wait();
  if (processes.last == getpid()) kill(getpid(), SIGKILL);
  test::holds(test::yield_until(kLimit, [&] { return !is_alive(processes.last); }),
              "the last rank dies");
  std::thread end([&] { session->shutdown(); });
  test::holds(test::yield_until(kLimit, [&] { return !session->status().is_ok(); }),
              "the session is shut down");
  test::holds(session->status().code() == StatusCode::shut_down, session->status().message());
  const auto before = std::chrono::steady_clock::now();
  if (my_rank == 0) kill(processes.keeper, SIGKILL);
  end.join();
  const auto time = std::chrono::steady_clock::now() - before;
  test::holds(time < std::chrono::seconds(10), "the loss ends the wait for the last rank");
}
