#include "runtime/control/rendezvous.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/control/frames.hpp"
#include "runtime/control/reception.hpp"
#include "scalecom/status.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ipv6.hpp"
#include "tests/support/other_user.hpp"
#include "tests/support/ranks.hpp"

using namespace scalecom;
using Catch::Contains;
using Limit = Bootstrap::Limit;
using scalecom::test::OtherUser;

namespace {

constexpr Limit kLong{20.0};
constexpr Limit kShort{0.5};

Deadline soon() { return Deadline::after(kLong); }

// Of a job that no other test, nor another run of this one, has.
Rendezvous job_of(int size) {
  static std::atomic<int> jobs{0};
  Rendezvous rendezvous;
  rendezvous.size = size;
  rendezvous.job = fmt::format("test {} {}", getpid(), ++jobs);
  rendezvous.host = "localhost";
  return rendezvous;
}

Rendezvous rank_of(Rendezvous rendezvous, int rank) {
  rendezvous.rank = rank;
  return rendezvous;
}

// A port of this host that nobody listens at.
int free_port() {
  int port = 0;
  listen_tcp("127.0.0.1", port);
  return port;
}

// An address that is none of this host's (RFC 5737).
constexpr const char* kElsewhere = "192.0.2.7";

// What each of the processes gets when they meet; empty: nothing.
std::vector<std::string> errors_of(const std::vector<Rendezvous>& processes, Limit limit) {
  std::vector<std::string> errors(processes.size());
  test::run_ranks(static_cast<int>(processes.size()), [&](int process) {
    const auto place = static_cast<std::size_t>(process);
    try {
      meet(processes[place], limit);
    } catch (const Error& error) {
      errors[place] = error.what();
    }
  });
  return errors;
}

Socket find_meeting(const Rendezvous& rendezvous) {
  Socket socket;
  for (const Deadline deadline = soon(); !socket.is_open() && !deadline.has_passed();) {
    socket = connect_unix(meeting_name(rendezvous.job));
  }
  return socket;
}

// A rank in the hands of the test, up to where it waits for the others.
Socket come_by_hand(const Rendezvous& rendezvous, Socket socket) {
  const Handshake handshake{derive_key(rendezvous.secret, "scalecom rendezvous " + rendezvous.job),
                            0};
  if (!introduce_to_parent(socket, handshake, rendezvous.rank, soon())) return {};
  send_frame(socket, std::to_string(rendezvous.size), soon());
  return socket;
}

}  // namespace

TEST_CASE("the ranks exchange texts of any size, again and again") {
  const int size = GENERATE(2, 3, 9);
  const Rendezvous job = job_of(size);
  const auto text = [](int rank, int round) {
    return std::string(static_cast<std::size_t>(rank * round * 400'000),
                       static_cast<char>('a' + rank));
  };
  std::vector<int> right(static_cast<std::size_t>(size));
  test::run_ranks(size, [&](int rank) {
    const auto bootstrap = meet(rank_of(job, rank), kLong);
    if (bootstrap->rank() != rank || bootstrap->size() != size) return;
    for (int round = 0; round < 3; ++round) {
      const auto texts = bootstrap->exchange(text(rank, round), kLong);
      for (int other = 0; other < size; ++other) {
        right[static_cast<std::size_t>(rank)] +=
            texts.at(static_cast<std::size_t>(other)) == text(other, round) ? 1 : 0;
      }
    }
  });
  CHECK(right == std::vector<int>(static_cast<std::size_t>(size), 3 * size));
}

TEST_CASE("a rank that does not come is named on all that have") {
  const Rendezvous job = job_of(4);
  for (const std::string& error :
       errors_of({rank_of(job, 0), rank_of(job, 1), rank_of(job, 3)}, kShort)) {
    CHECK_THAT(error, Contains("rank 2 of 4 did not come to init() within 0.5 s"));
  }
}

TEST_CASE("who does not find rank 0 says where it looked") {
  const auto errors = errors_of({rank_of(job_of(2), 1)}, kShort);
  CHECK_THAT(errors[0], Contains("rank 1 did not find rank 0") && Contains("nobody answers") &&
                            Contains("SCALECOM_CONNECT_TIMEOUT"));
}

TEST_CASE("two processes of one rank fail, and so do those that wait with them") {
  const Rendezvous job = job_of(4);
  for (const std::string& error :
       errors_of({rank_of(job, 0), rank_of(job, 1), rank_of(job, 1)}, kLong)) {
    CHECK_THAT(error, Contains("two processes say that they are rank 1"));
  }
}

TEST_CASE("where a process is missing or one too many, the launcher's advice ends the message") {
  Rendezvous job = job_of(3);
  job.advice = "ask the launcher";
  using Ranks = std::vector<Rendezvous>;
  const auto processes =
      GENERATE_COPY(Ranks{rank_of(job, 0), rank_of(job, 1)}, Ranks{rank_of(job, 2)},
                    Ranks{rank_of(job, 0), rank_of(job, 1), rank_of(job, 1)});
  for (const std::string& error : errors_of(processes, kShort)) {
    CHECK_THAT(error, Catch::EndsWith(". ask the launcher"));
  }
}

TEST_CASE("a second rank 0 is told that the place is taken, and the first waits on") {
  const Rendezvous job = job_of(2);
  std::string error;
  std::vector<std::size_t> met(2);
  test::run_ranks(2, [&](int rank) {
    if (rank == 1) {
      find_meeting(job);
      error = errors_of({rank_of(job, 0)}, kShort)[0];
    }
    met[static_cast<std::size_t>(rank)] =
        meet(rank_of(job, rank), kLong)->exchange("", kLong).size();
  });
  CHECK_THAT(error, Contains("another process does") && Contains("rank 0 was started twice"));
  CHECK(met == std::vector<std::size_t>{2, 2});
}

TEST_CASE("world sizes that differ are an error on both sides, whoever has the larger") {
  const bool is_first_larger = GENERATE(true, false);
  Rendezvous small = job_of(2);
  Rendezvous large = small;
  large.size = 3;
  const auto errors = errors_of(
      {rank_of(is_first_larger ? large : small, 0), rank_of(is_first_larger ? small : large, 1)},
      kLong);
  for (const std::string& error : errors) {
    CHECK_THAT(error, Contains(is_first_larger ? "WORLD_SIZE is 3 on rank 0 and 2 on rank 1"
                                               : "WORLD_SIZE is 2 on rank 0 and 3 on rank 1"));
  }
}

TEST_CASE("a rank with another key is not let in, and told why") {
  Rendezvous job = job_of(2);
  job.secret = "right";
  Rendezvous other = rank_of(job, 1);
  other.secret = GENERATE("wrong", "");
  const auto errors = errors_of({rank_of(job, 0), other}, kShort);
  CHECK_THAT(errors[0], Contains("rank 1 of 2 did not come"));
  CHECK_THAT(errors[1], Contains("another SCALECOM_RENDEZVOUS_KEY"));
}

TEST_CASE("strangers, silent or babbling or of another job, hold nobody up") {
  const Rendezvous job = job_of(2);
  std::vector<Socket> strangers;
  bool is_let_in = true;
  std::size_t met = 0;
  test::run_ranks(2, [&](int rank) {
    if (rank == 1) {
      for (int i = 0; i < 3; ++i) {
        strangers.push_back(find_meeting(job));
      }
      send_all(strangers[1], std::string(500, 'x'), soon());
      const Handshake wrong{derive_key("", "scalecom rendezvous another job"), 0};
      is_let_in = introduce_to_parent(strangers[2], wrong, 1, soon());
    }
    const auto bootstrap = meet(rank_of(job, rank), kLong);
    if (rank == 0) met = bootstrap->exchange("", kLong).size();
    if (rank == 1) bootstrap->exchange("", kLong);
  });
  CHECK_FALSE(is_let_in);
  CHECK(met == 2);
}

TEST_CASE("a process of another user is not let in, though it knows the job and the key") {
  if (geteuid() != 0) return;  // Only root can be somebody else.
  const Rendezvous job = job_of(2);
  const std::string name = meeting_name(job.job);  // of this user
  const OtherUser other([&] {                      // Forked while this process has one thread.
    Socket socket;
    while (!socket.is_open()) socket = connect_unix(name);
    introduce_to_parent(socket, {derive_key("", "scalecom rendezvous " + job.job), 0}, 1, soon());
    send_frame(socket, "2", soon());
    receive_frame(socket, soon());
  });
  CHECK_THAT(errors_of({rank_of(job, 0)}, Limit(2.0))[0], Contains("rank 1 of 2 did not come"));
  CHECK(other.is_ready());
}

TEST_CASE("a rank does not talk to a process of another user in the place of rank 0") {
  if (geteuid() != 0) return;
  const Rendezvous job = job_of(2);
  const std::string name = meeting_name(job.job);
  Socket listener;
  const OtherUser other([&] { listener = listen_unix(name); });
  REQUIRE(other.is_ready());
  CHECK_THAT(errors_of({rank_of(job, 1)}, kShort)[0], Contains("a process of another user waits"));
}

TEST_CASE("a rank keeps its place with a rank 0 of its host that is busy") {
  const Rendezvous job = job_of(2);
  const Socket busy = listen_unix(meeting_name(job.job));
  Socket first;
  bool does_come_again = true;
  std::string error;
  test::run_ranks(2, [&](int side) {
    if (side == 0) {
      error = errors_of({rank_of(job, 1)}, Limit(2.5))[0];
      return;
    }
    pollfd visit{busy.descriptor(), POLLIN, 0};
    if (poll(&visit, 1, 10'000) != 1) return;
    first = Socket(accept(busy.descriptor(), nullptr, nullptr));
    does_come_again = poll(&visit, 1, 2200) == 1;  // Over the network it tries for 2 s.
  });
  CHECK_FALSE(does_come_again);
  CHECK_THAT(error, Contains("who waits at this host did not answer in time"));
}

TEST_CASE("a rank that leaves before all have come may come again") {
  const Rendezvous job = job_of(3);
  std::vector<std::size_t> met(3);
  std::promise<void> has_left;
  test::run_ranks(3, [&](int rank) {
    if (rank == 1) {
      come_by_hand(rank_of(job, 1), find_meeting(job));  // And closes.
      has_left.set_value();
    }
    if (rank == 2) has_left.get_future().wait_for(kLong);
    met[static_cast<std::size_t>(rank)] =
        meet(rank_of(job, rank), kLong)->exchange("", kLong).size();
  });
  CHECK(met == std::vector<std::size_t>{3, 3, 3});
}

TEST_CASE("two jobs meet at once, each its own ranks, and one after the other at one place") {
  const Rendezvous one = job_of(3);
  const Rendezvous two = job_of(3);
  std::vector<std::vector<std::string>> met(6);
  test::run_ranks(6, [&](int thread) {
    const int rank = thread / 2;
    const Rendezvous& job = thread % 2 == 0 ? one : two;
    for (int turn = 0; turn < 3; ++turn) {
      met[static_cast<std::size_t>(thread)] =
          meet(rank_of(job, rank), kLong)->exchange(job.job, kLong);
    }
  });
  for (std::size_t thread = 0; thread < 6; ++thread) {
    CHECK(met[thread] == std::vector<std::string>(3, thread % 2 == 0 ? one.job : two.job));
  }
}

TEST_CASE(
    "a rank that is lost between exchanges is named to the others, in each one from then on") {
  const int victim = GENERATE(0, 2);
  const Rendezvous job = job_of(3);
  std::vector<std::string> errors(3);
  test::run_ranks(3, [&](int rank) {
    auto bootstrap = meet(rank_of(job, rank), kLong);
    bootstrap->exchange("", kLong);
    if (rank == victim) return;
    for (int step = 0; step < 2; ++step) {
      try {
        bootstrap->exchange("", kLong);
      } catch (const Error& error) {
        errors[static_cast<std::size_t>(rank)] +=
            error.code() == StatusCode::rank_lost ? error.what() : "another code";
      }
    }
  });
  for (const int rank : {0, 1, 2}) {
    if (rank == victim) continue;
    const std::string& text = errors[static_cast<std::size_t>(rank)];
    CHECK_THAT(text, Contains(fmt::format("rank {} is lost: its connection closed while the ranks "
                                          "connected; look at the lost rank's own output",
                                          victim)));
    CHECK(text.substr(0, text.size() / 2) == text.substr(text.size() / 2));
  }
}

TEST_CASE("a rank that is late in an exchange is named to the others") {
  const Rendezvous job = job_of(3);
  std::vector<std::string> errors(3);
  std::promise<void> is_over;
  test::run_ranks(3, [&](int rank) {
    const auto bootstrap = meet(rank_of(job, rank), kLong);
    if (rank == 2) {
      is_over.get_future().wait_for(kLong);
      return;
    }
    try {
      bootstrap->exchange("", kShort);
    } catch (const Error& error) {
      errors[static_cast<std::size_t>(rank)] = error.what();
    }
    if (rank == 1) is_over.set_value();
  });
  CHECK_THAT(errors[0], Contains("rank 2 did not go on connecting within 0.5 s"));
  CHECK(errors[1] == errors[0]);
}

TEST_CASE("rank 0 that is localhost to itself listens to the network where ranks are elsewhere") {
  const bool has_secret = GENERATE(true, false);
  const bool is_spread = GENERATE(true, false);
  const bool is_networked = has_secret || is_spread;
  Rendezvous job = job_of(2);
  job.hosts = is_spread ? HostSpread::several : HostSpread::unknown;
  job.secret = has_secret ? "secret" : "";
  job.ports = {free_port()};
  bool is_open = false;
  std::string error;
  test::run_ranks(2, [&](int rank) {
    if (rank == 0) {
      try {
        meet(job, kLong);
      } catch (const Error& failure) {
        error = failure.what();
      }
      return;
    }
    find_meeting(job);  // It listens, to the network perhaps a little later.
    Socket socket;
    for (const Deadline deadline = is_networked ? soon() : Deadline::after(Limit(0.2));
         !socket.is_open() && !deadline.has_passed();) {
      socket = connect_tcp("127.0.0.1", job.ports.front(), soon());
    }
    is_open = socket.is_open();
    const Rendezvous other = rank_of(job, 1);
    const Socket root = come_by_hand(other, is_open ? std::move(socket) : find_meeting(job));
    receive_frame(root, soon());
  });
  CHECK(is_open == is_networked);
  CHECK(error.empty());
}

TEST_CASE("an address that is none of rank 0's own leads its host's ranks to it all the same") {
  Rendezvous job = job_of(3);
  job.host = kElsewhere;
  job.ports = {free_port()};
  std::vector<std::size_t> met(3);
  test::run_ranks(3, [&](int rank) {
    met[static_cast<std::size_t>(rank)] =
        meet(rank_of(job, rank), kLong)->exchange("", kLong).size();
  });
  CHECK(met == std::vector<std::size_t>{3, 3, 3});
}

TEST_CASE("rank 0 says where it waited when its address is no other host's, or not its own") {
  Rendezvous job = job_of(2);
  CHECK_THAT(errors_of({job}, kShort)[0],
             Contains("rank 1 of 2 did not come") &&
                 Contains("MASTER_ADDR=localhost keeps rank 0 off the network"));
  job.host = kElsewhere;
  job.host_setting = "SCALECOM_RENDEZVOUS";
  job.ports = {free_port()};
  CHECK_THAT(errors_of({job}, kShort)[0],
             Contains("rank 1 of 2 did not come") &&
                 Contains("SCALECOM_RENDEZVOUS=192.0.2.7 leads to 192.0.2.7, which is none of"));
}

TEST_CASE("rank 0 whose place another user has says so, and waits over the network if all can") {
  if (geteuid() != 0) return;
  Rendezvous job = job_of(2);
  const bool does_answer = GENERATE(true, false);
  const bool is_here_only = GENERATE(true, false);
  job.host = is_here_only ? "localhost" : kElsewhere;
  job.secret = "secret";  // It listens to the network in any case.
  job.ports = {free_port()};
  const std::string name = meeting_name(job.job);
  Socket listener;
  const OtherUser other([&] {
    listener = listen_unix(name);
    if (!does_answer) shutdown(listener.descriptor(), SHUT_RDWR);  // As one that only has the name.
  });
  REQUIRE(other.is_ready());
  const std::string error = errors_of({job}, kShort)[0];
  CHECK_THAT(error,
             Contains(does_answer ? "a process of another user does" : "it is not known whose"));
  CHECK((error.find("rank 1 of 2 did not come") == std::string::npos) == is_here_only);
}

TEST_CASE("rank 0 that finds all ports taken says so, though it need not have one") {
  Rendezvous job = job_of(2);
  job.secret = "secret";
  job.ports = {0};
  const Socket taken = listen_tcp("127.0.0.1", job.ports.front());
  CHECK_THAT(errors_of({job}, kShort)[0],
             Contains("rank 1 of 2 did not come") && Contains("are taken"));
}

TEST_CASE("rank 0 that is ::1 to itself waits at all addresses, of both families") {
  if (!test::has_ipv6()) return;
  Rendezvous job = job_of(2);
  job.host = "::1";
  job.secret = "secret";
  job.ports = {free_port()};
  const std::string address = GENERATE("127.0.0.1", "::1");
  std::size_t met = 0;
  bool is_welcome = false;
  test::run_ranks(2, [&](int rank) {
    if (rank == 0) {
      met = meet(job, kLong)->exchange("", kLong).size();
      return;
    }
    Socket socket;
    for (const Deadline deadline = soon(); !socket.is_open() && !deadline.has_passed();) {
      socket = connect_tcp(address, job.ports.front(), soon());
    }
    const Socket root = come_by_hand(rank_of(job, 1), std::move(socket));
    is_welcome = receive_frame(root, soon()).has_value() && send_frame(root, "", soon());
  });
  CHECK(is_welcome);
  CHECK(met == 2);
}

TEST_CASE("rank 0 that waits at all addresses without a key warns of it") {
  Rendezvous job = job_of(2);
  job.host = kElsewhere;
  job.secret = GENERATE("", "secret");
  job.ports = {free_port()};
  std::string log;
  {
    const test::CapturedStderr captured;
    errors_of({job}, kShort);
    log = captured.text();
  }
  CHECK((log.find("without a SCALECOM_RENDEZVOUS_KEY") != std::string::npos) == job.secret.empty());
}

TEST_CASE("a host that is another way to write the loopback interface is that") {
  Rendezvous job = job_of(2);
  job.host = GENERATE("2130706433", "::ffff:127.0.0.1", "::1");  // The first is 127.0.0.1.
  job.ports = {free_port()};
  CHECK_THAT(errors_of({job}, kShort)[0], Contains("keeps rank 0 off the network"));
}

TEST_CASE("who looks on its own host only says so") {
  CHECK_THAT(errors_of({rank_of(job_of(2), 1)}, kShort)[0],
             Contains("MASTER_ADDR=localhost has this rank look on its own host"));
}

TEST_CASE("who proves that it knows the job and then says nothing holds nobody up") {
  const Rendezvous job = job_of(2);
  Socket silent;
  std::size_t met = 0;
  const auto begin = Clock::now();
  test::run_ranks(2, [&](int rank) {
    if (rank == 1) {
      silent = find_meeting(job);
      introduce_to_parent(silent, {derive_key("", "scalecom rendezvous " + job.job), 0}, 1, soon());
    }
    const std::size_t blobs = meet(rank_of(job, rank), kLong)->exchange("", kLong).size();
    if (rank == 1) met = blobs;
  });
  CHECK(met == 2);
  CHECK(Clock::now() - begin < std::chrono::seconds(3));
}
