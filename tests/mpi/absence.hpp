#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "scalecom/status.hpp"

/// For jobs of two ranks of which the second lives and does not come to what the first waits for.
namespace scalecom::test {

inline bool holds(bool claim, const std::string& what) {
  if (!claim) std::printf("does not hold: %s\n", what.c_str());
  return claim;
}

/// Whether `action` throws what says that ranks are missing, after `limit_s` and soon.
template <class Action>
bool ends_in_time(double limit_s, const Action& action) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    action();
  } catch (const Error& error) {
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    const std::string message = error.what();
    const auto names = [&](const char* text) { return message.find(text) != std::string::npos; };
    return holds(error.code() == StatusCode::timed_out, "timed out") &&
           holds(names("SCALECOM_CONNECT_TIMEOUT") && names("all 2 ranks") && names("init()"),
                 message) &&
           holds(time.count() >= limit_s && time.count() < limit_s + 10,
                 "after " + std::to_string(time.count()) + " s");
  }
  return holds(false, "an error came");
}

/// Whether `action` throws this code, and `words` are in the message; the test's own time-out is
/// the limit.
template <class Action>
bool ends_with(StatusCode code, const std::string& words, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    return holds(error.code() == code && message.find(words) != std::string::npos, message);
  }
  return holds(false, "an error came");
}

/// Each of the two ranks waits here for the other; the alarm is the deadline. `folder` holds the
/// pipe that they meet at, which has the name of their launcher.
inline void meet(const std::string& folder, bool is_first) {
  constexpr unsigned kLimit_s = 40;
  const std::string pipe = folder + "/meet." + std::to_string(getppid());
  alarm(kLimit_s);
  mkfifo(pipe.c_str(), 0600);  // Whoever comes first makes it.
  const int end = open(pipe.c_str(), is_first ? O_WRONLY : O_RDONLY);
  if (!is_first) unlink(pipe.c_str());
  close(end);
}

/// The second rank's part. Leaves without MPI_Finalize, which would wait for the first.
[[noreturn]] inline void stay_away(const std::string& folder) {
  meet(folder, false);
  std::_Exit(0);
}

/// The first rank's verdict. Ends as a program that gave up does; what is left in MPI must not hold
/// it up.
[[noreturn]] inline void give_verdict(bool is_good, const std::string& folder) {
  std::printf("%s\n", is_good ? "ended in time" : "wrong");
  std::fflush(stdout);
  meet(folder, true);
  std::exit(0);
}

}  // namespace scalecom::test
