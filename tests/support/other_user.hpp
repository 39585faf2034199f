#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>

namespace scalecom::test {

/// Another process, of another user, which does `work` and then waits for the test to end it. Only
/// root has such; forked while the test has one thread.
class OtherUser {
 public:
  explicit OtherUser(const std::function<void()>& work) {
    if (pipe(pipe_.data()) != 0) std::abort();
    process_ = fork();
    if (process_ == 0) {
      alarm(30);
      if (setuid(65534) == 0) work();
      if (write(pipe_[1], "r", 1) == 1) pause();
      _exit(0);
    }
    close(pipe_[1]);
  }
  ~OtherUser() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    close(pipe_[0]);
  }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;
  /// Waits until its work is done.
  bool is_ready() const {
    char ready = 0;
    return read(pipe_[0], &ready, 1) == 1;
  }

 private:
  std::array<int, 2> pipe_{};
  pid_t process_ = -1;
};

}  // namespace scalecom::test
