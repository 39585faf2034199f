#include "runtime/control/rendezvous.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.hpp"
#include "base/wait.hpp"
#include "runtime/control/frames.hpp"
#include "runtime/control/reception.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// How long one try at a place may take: who answers there may be another program.
constexpr std::chrono::seconds kTryTime{2};
// How long a rank that was let in may take to say how large its job is.
constexpr std::chrono::seconds kHelloTime{5};
// A number.
constexpr std::size_t kHelloBytesMax = 16;
// Beyond the limit, for rank 0's word on who is missing.
constexpr std::chrono::seconds kVerdictTime{2};

std::string to_hex(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<std::uint8_t>(byte));
  return hex;
}

Handshake handshake_of(const Rendezvous& rendezvous) {
  return {derive_key(rendezvous.secret, "scalecom rendezvous " + rendezvous.job), 0};
}

// Names that other hosts may understand in another way do not count.
bool is_here_only(const Rendezvous& rendezvous) {
  return rendezvous.is_one_host || rendezvous.host == "localhost" ||
         rendezvous.host.starts_with("127.");
}

std::string describe_place(const Rendezvous& rendezvous) {
  if (is_here_only(rendezvous)) {
    return fmt::format("this host's meeting place of the job ({})", rendezvous.job);
  }
  return fmt::format("{} (ports {}) or this host's meeting place of the job ({})", rendezvous.host,
                     fmt::join(rendezvous.ports, ", "), rendezvous.job);
}

const char* kSameForAll =
    "give all ranks the same MASTER_ADDR, MASTER_PORT, WORLD_SIZE and SCALECOM_RENDEZVOUS*";

// What rank 0 answers: everybody's blobs, or why there is none.
std::string to_reply(const std::vector<std::string>& blobs) {
  std::string reply = "+";
  for (const std::string& blob : blobs) append_frame(reply, blob);
  return reply;
}

std::string to_reply(const Error& error) {
  return fmt::format("-{} {}", static_cast<int>(error.code()), error.what());
}

std::vector<std::string> read_reply(std::string_view reply) {
  if (reply.starts_with("-")) {
    const std::string text(reply.substr(1));
    int code = 0;
    std::from_chars(text.data(), text.data() + text.size(), code);
    const bool is_known = code > 0 && code <= static_cast<int>(StatusCode::internal);
    throw Error(is_known ? static_cast<StatusCode>(code) : StatusCode::internal,
                text.substr(text.find(' ') + 1));
  }
  if (!reply.starts_with("+")) throw Error(StatusCode::internal, "rank 0 sent a malformed reply");
  std::vector<std::string> blobs;
  for (reply.remove_prefix(1); !reply.empty();) blobs.push_back(take_frame(reply));
  return blobs;
}

/// Rank 0's end: the others' connections, by rank.
class RootBootstrap final : public Bootstrap {
 public:
  RootBootstrap(int size, std::map<int, Socket> others) : size_(size), others_(std::move(others)) {}

  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return size_; }

  std::vector<std::string> exchange(const std::string& mine, Limit limit) override {
    SCALECOM_ASSERT(!is_out_of_step_, "an exchange after one that failed");
    std::vector<std::string> blobs{mine};
    try {
      gather(blobs, limit);
    } catch (const Error& error) {
      is_out_of_step_ = true;
      tell_all(to_reply(error), Deadline::after(kVerdictTime));
      throw;
    }
    tell_all(to_reply(blobs), Deadline::after(limit));
    return blobs;
  }

 private:
  void gather(std::vector<std::string>& blobs, Limit limit) {
    const Deadline deadline = Deadline::after(limit);
    std::vector<int> late;
    for (auto& [rank, socket] : others_) {
      std::optional<std::string> blob = receive_frame(socket, deadline);
      if (!blob && is_hung_up(socket)) {
        throw Error(StatusCode::rank_lost,
                    fmt::format("rank {} is lost: its connection closed while the ranks connected; "
                                "look at that rank's own output",
                                rank));
      }
      if (!blob) late.push_back(rank);
      blobs.push_back(std::move(blob).value_or(""));
    }
    if (late.empty()) return;
    throw Error(StatusCode::timed_out,
                fmt::format("rank {} did not go on connecting within {:g} s; see whether it is "
                            "stopped or busy, or raise SCALECOM_CONNECT_TIMEOUT",
                            fmt::join(late, ", "), limit.count()));
  }

  // Who cannot be told any more is missed in the next exchange.
  void tell_all(const std::string& reply, Deadline deadline) {
    for (auto& [rank, socket] : others_) send_frame(socket, reply, deadline);
  }

  const int size_;
  std::map<int, Socket> others_;
  bool is_out_of_step_ = false;
};

/// Another rank's end.
class MemberBootstrap final : public Bootstrap {
 public:
  MemberBootstrap(int rank, int size, Socket root)
      : rank_(rank), size_(size), root_(std::move(root)) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }

  std::vector<std::string> exchange(const std::string& mine, Limit limit) override {
    SCALECOM_ASSERT(!is_out_of_step_, "an exchange after one that failed");
    is_out_of_step_ = true;
    const Deadline deadline = Deadline::after(limit + kVerdictTime);
    std::optional<std::string> reply;
    if (send_frame(root_, mine, deadline)) reply = receive_frame(root_, deadline);
    if (!reply && !deadline.has_passed()) {
      throw Error(StatusCode::rank_lost,
                  "rank 0 is lost: its connection closed while the ranks connected; look at that "
                  "rank's own output");
    }
    if (!reply) {
      throw Error(StatusCode::timed_out,
                  fmt::format("rank 0 did not go on connecting within {:g} s; see whether it is "
                              "stopped or busy, or raise SCALECOM_CONNECT_TIMEOUT",
                              limit.count()));
    }
    std::vector<std::string> blobs = read_reply(*reply);
    is_out_of_step_ = false;
    return blobs;
  }

 private:
  const int rank_;
  const int size_;
  Socket root_;
  bool is_out_of_step_ = false;
};

/// Rank 0 while it waits for the others.
class Host {
 public:
  Host(const Rendezvous& rendezvous, Bootstrap::Limit limit)
      : rendezvous_(rendezvous), limit_(limit) {
    listeners_.push_back(try_listen_unix(meeting_name(rendezvous.job)));
    if (!listeners_.back().is_open()) {
      throw Error(StatusCode::unavailable,
                  fmt::format("rank 0 cannot wait for the others at {}: another process does; "
                              "either rank 0 was started twice, or another job on this host has "
                              "the same meeting place: give each job a MASTER_PORT of its own",
                              describe_place(rendezvous)));
    }
    if (!is_here_only(rendezvous)) listeners_.push_back(listen_to_network());
  }

  std::unique_ptr<Bootstrap> await_all() {
    const Deadline deadline = Deadline::after(limit_);
    try {
      Reception reception(listeners_, handshake_of(rendezvous_));
      while (static_cast<int>(others_.size()) < rendezvous_.size - 1) {
        if (deadline.has_passed()) throw missing();
        for (Reception::Arrival& arrival : reception.wait()) {
          if (!is_of_another_user(arrival.socket)) let_in(arrival.rank, std::move(arrival.socket));
        }
        std::erase_if(others_, [](const auto& other) { return is_hung_up(other.second); });
      }
    } catch (const Error& error) {
      tell_all(to_reply(error));
      throw;
    }
    tell_all(to_reply(std::vector<std::string>{}));
    return std::make_unique<RootBootstrap>(rendezvous_.size, std::move(others_));
  }

 private:
  Socket listen_to_network() const {
    const std::string address = resolve(rendezvous_.host);
    // A host's own name may lead itself to its loopback interface, and others to it.
    const std::string bound = address.starts_with("127.") ? "0.0.0.0" : address;
    for (const int port : rendezvous_.ports) {
      Socket listener = address.empty() ? Socket() : try_listen_tcp(bound, port);
      if (listener.is_open()) return listener;
    }
    throw Error(
        StatusCode::unavailable,
        address.empty()
            ? fmt::format("rank 0 finds no IPv4 address of its own host's name {}; set "
                          "MASTER_ADDR to an address of the host of rank 0",
                          rendezvous_.host)
            : fmt::format("rank 0 cannot wait for the others on {} ({}): the ports {} are taken; "
                          "set SCALECOM_RENDEZVOUS=host:port to a free one, on all ranks",
                          rendezvous_.host, address, fmt::join(rendezvous_.ports, ", ")));
  }

  void let_in(int rank, Socket socket) {
    const std::optional<std::string> hello =
        receive_frame(socket, Deadline::after(kHelloTime), kHelloBytesMax);
    if (!hello || rank < 1) return;
    const auto [place, is_new] = others_.try_emplace(rank, std::move(socket));
    if (*hello != std::to_string(rendezvous_.size)) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("WORLD_SIZE is {} on rank 0 and {} on rank {}; give it one value on "
                              "all ranks",
                              rendezvous_.size, *hello, rank));
    }
    if (rank >= rendezvous_.size) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("a process says that it is rank {} of {}; RANK is from 0 to {}", rank,
                              rendezvous_.size, rendezvous_.size - 1));
    }
    if (is_new) return;
    if (is_hung_up(place->second)) {  // It was started anew.
      place->second = std::move(socket);
      return;
    }
    others_.emplace(-1, std::move(socket));  // It is to be told, too.
    throw Error(
        StatusCode::invalid_argument,
        fmt::format("two processes say that they are rank {}; give each a RANK of its own", rank));
  }

  Error missing() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < rendezvous_.size; ++rank) {
      if (!others_.contains(rank)) ranks.push_back(rank);
    }
    return {StatusCode::timed_out,
            fmt::format("rank {} of {} did not come to init() within {:g} s; see that each was "
                        "started and calls init(), and {}; if one only comes later, raise "
                        "SCALECOM_CONNECT_TIMEOUT",
                        fmt::join(ranks, ", "), rendezvous_.size, limit_.count(), kSameForAll)};
  }

  void tell_all(const std::string& reply) {
    for (auto& [rank, socket] : others_) {
      send_frame(socket, reply, Deadline::after(kVerdictTime));
    }
  }

  const Rendezvous& rendezvous_;
  const Bootstrap::Limit limit_;
  std::vector<Socket> listeners_;
  std::map<int, Socket> others_;
};

/// Another rank while it looks for rank 0.
class Guest {
 public:
  Guest(const Rendezvous& rendezvous, Bootstrap::Limit limit)
      : rendezvous_(rendezvous), handshake_(handshake_of(rendezvous)), limit_(limit) {}

  std::unique_ptr<Bootstrap> come() {
    const WaitContext context{Deadline::after(limit_)};
    WaitLoop loop(context);
    while (true) {
      if (Socket root = find_root(context.deadline); root.is_open()) {
        return std::make_unique<MemberBootstrap>(rendezvous_.rank, rendezvous_.size,
                                                 std::move(root));
      }
      try {
        loop.pause("finding rank 0");
      } catch (const Error&) {
        throw Error(StatusCode::timed_out,
                    fmt::format("rank {} did not find rank 0 at {} within {:g} s: {}. See that "
                                "rank 0 was started and calls init(), that no other process has "
                                "this rank's number, and {}; if rank 0 only comes later, raise "
                                "SCALECOM_CONNECT_TIMEOUT",
                                rendezvous_.rank, describe_place(rendezvous_), limit_.count(),
                                finding_, kSameForAll));
      }
    }
  }

 private:
  // One try at each place.
  Socket find_root(Deadline deadline) {
    const std::string address = is_here_only(rendezvous_) ? "" : resolve(rendezvous_.host);
    // Rank 0 of another job with this port may wait here, if ours is elsewhere.
    const bool is_here = is_here_only(rendezvous_) || address.starts_with("127.") ||
                         (!address.empty() && local_address_towards(address) == address);
    Socket root = is_here ? connect_unix(meeting_name(rendezvous_.job)) : Socket();
    if (root.is_open() && is_of_another_user(root)) {
      finding_ = "a process of another user waits at this host's meeting place";
    } else if (root.is_open() && is_root(root, "this host", deadline)) {
      return root;
    }
    if (is_here_only(rendezvous_)) return {};
    if (address.empty()) {
      finding_ = rendezvous_.host + " has no IPv4 address";
      return {};
    }
    for (const int port : rendezvous_.ports) {
      root = connect_tcp(address, port, soon(deadline));
      const std::string place = fmt::format("{}:{}", rendezvous_.host, port);
      if (root.is_open() && is_root(root, place, deadline)) return root;
    }
    return {};
  }

  // Says who this rank is, and waits until all have come.
  bool is_root(const Socket& socket, const std::string& place, Deadline deadline) {
    if (!introduce_to_parent(socket, handshake_, rendezvous_.rank, soon(deadline))) {
      finding_ = fmt::format(
          "who answers at {} is not rank 0 of this job, or has another "
          "SCALECOM_RENDEZVOUS_KEY",
          place);
      return false;
    }
    const std::string hello = std::to_string(rendezvous_.size);
    std::optional<std::string> reply;
    // Rank 0 has waited before this rank came, so that its time is over first.
    if (send_frame(socket, hello, soon(deadline))) {
      reply = receive_frame(socket, Deadline::after(limit_ + kVerdictTime));
    }
    if (!reply) {
      finding_ = fmt::format("rank 0, at {}, closed the connection before all had come", place);
      return false;
    }
    read_reply(*reply);
    return true;
  }

  static Deadline soon(Deadline deadline) {
    return Deadline(std::min(deadline.at(), Deadline::after(kTryTime).at()));
  }

  const Rendezvous& rendezvous_;
  const Handshake handshake_;
  const Bootstrap::Limit limit_;
  std::string finding_ = "nobody answers there";
};

}  // namespace

std::string meeting_name(const std::string& job) {
  return "scalecom-meet-" + to_hex(derive_key(std::to_string(geteuid()), job)).substr(0, 32);
}

std::unique_ptr<Bootstrap> meet(const Rendezvous& rendezvous, Bootstrap::Limit limit) {
  SCALECOM_ASSERT(rendezvous.rank >= 0 && rendezvous.rank < rendezvous.size,
                  fmt::format("rank {} of {}", rendezvous.rank, rendezvous.size));
  if (rendezvous.rank == 0) return Host(rendezvous, limit).await_all();
  return Guest(rendezvous, limit).come();
}

}  // namespace scalecom
