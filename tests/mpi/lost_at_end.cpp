// Rank 2 of 3 dies, and what it has forked keeps its connections open, so that the others see
// nothing of it. They shut down in good order, and end: without MPI_Finalize, which would wait.

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

#include "scalecom/scalecom.hpp"
#include "tests/mpi/absence.hpp"

namespace {

using namespace scalecom;

int my_rank = 0;

// Registered before the library's own, so called after it.
void tell_end() {
  int is_finalized = 0;
  MPI_Finalized(&is_finalized);
  if (!test::holds(is_finalized == 0, "MPI is not finalized")) _exit(1);
  std::printf("rank %d ended\n", my_rank);
  std::fflush(stdout);
}

// A child of this process lives on for a while; the alarm ends it.
[[noreturn]] void die_unnoticed() {
  if (fork() == 0) {
    alarm(30);
    close(STDOUT_FILENO);  // mpirun waits for its end.
    close(STDERR_FILENO);
    while (true) pause();
  }
  kill(getpid(), SIGKILL);
  std::abort();
}

bool is_alive(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.at(name_end + 2) != 'Z';
}

bool has_died(pid_t process) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (is_alive(process)) {
    if (std::chrono::steady_clock::now() > limit) return false;
    sched_yield();
  }
  return true;
}

// Of the process of the last rank.
pid_t share_process(Session& session) {
  std::int32_t process = getpid();
  const TensorView view{&process, DataType::int32, {1}, {}};
  session.broadcast("process", view, session.topology().size - 1).wait();
  return process;
}

}  // namespace

int main() {
  std::atexit(tell_end);
  const auto session = Session::connect(Config::from_environment());
  my_rank = session->topology().rank;
  const pid_t last = share_process(*session);
  session->barrier().wait();
  if (last == getpid()) die_unnoticed();
  test::holds(has_died(last), "the last rank dies");
  session->shutdown();
  test::holds(session->status().code() == StatusCode::shut_down, session->status().message());
}
