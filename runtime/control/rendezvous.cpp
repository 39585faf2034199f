#include "runtime/control/rendezvous.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/wait.hpp"
#include "runtime/control/frames.hpp"
#include "runtime/control/host_facts.hpp"
#include "runtime/control/meeting.hpp"
#include "runtime/control/neighbours.hpp"
#include "runtime/control/open_files.hpp"
#include "runtime/control/reception.hpp"
#include "scalecom/status.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

// How long one try at a place may take: who answers there may be another program.
constexpr std::chrono::seconds kTryTime{2};
// How large the job is: a number.
constexpr std::size_t kHelloBytesMax = 16;

Handshake handshake_of(const Rendezvous& rendezvous) {
  return {derive_key(rendezvous.secret, "scalecom rendezvous " + rendezvous.job), 0};
}

std::string_view first_label(std::string_view host) { return host.substr(0, host.find('.')); }

// Whether the host is what leads each host to itself. A host's own name may lead it to its loopback
// interface as well, and others to it.
bool leads_back(const std::string& host) {
  if (host == "localhost" || is_loopback(host)) return true;
  if (first_label(host) == first_label(local_host_facts().host_name)) return false;
  const std::vector<std::string> addresses = resolve(host);
  return !addresses.empty() && std::ranges::all_of(addresses, is_loopback);
}

// Whether rank 0 listens to the network. By an address of its own host only it need not, and does
// so where ranks are known to be elsewhere, or a secret tells who belongs.
bool is_networked(const Rendezvous& rendezvous) {
  if (rendezvous.hosts == HostSpread::one) return false;
  return rendezvous.hosts == HostSpread::several || !rendezvous.secret.empty() ||
         !leads_back(rendezvous.host);
}

bool looks_here_only(const Rendezvous& rendezvous) {
  return rendezvous.hosts == HostSpread::one || leads_back(rendezvous.host);
}

std::string host_setting_of(const Rendezvous& rendezvous) {
  return fmt::format("{}={}", rendezvous.host_setting, rendezvous.host);
}

// The other meeting place on a host whose own addresses that of the job is not one of: only ranks
// that know the same address come to it, and none of another job whose rank 0 is elsewhere.
std::string meeting_name_behind(const Rendezvous& rendezvous) {
  return meeting_name(fmt::format("{} behind {}", rendezvous.job, rendezvous.host));
}

std::string describe_place(const Rendezvous& rendezvous) {
  if (looks_here_only(rendezvous)) {
    return fmt::format("this host's meeting place of the job ({})", rendezvous.job);
  }
  return fmt::format("{} (ports {}) or this host's meeting place of the job ({})", rendezvous.host,
                     fmt::join(rendezvous.ports, ", "), rendezvous.job);
}

// Behind a message.
std::string advice_of(const Rendezvous& rendezvous) {
  return rendezvous.advice.empty() ? "" : ". " + rendezvous.advice;
}

const char* kSameForAll =
    "give all ranks the same MASTER_ADDR, MASTER_PORT, WORLD_SIZE and SCALECOM_RENDEZVOUS*";

/// Rank 0 while it waits for the others.
class Host {
 public:
  Host(const Rendezvous& rendezvous, Bootstrap::Limit limit)
      : rendezvous_(rendezvous), limit_(limit) {
    // For the meeting itself, for data, and for control messages.
    const int connections = 2 * (rendezvous.size - 1) + Links::in_tree(0, rendezvous.size).count();
    if (const std::string lack = lack_of_open_files(connections); !lack.empty()) {
      lack_ = Error(StatusCode::invalid_argument, fmt::format("rank 0: {}", lack));
      log_error(lack_->what());
    }
    const bool has_network = is_networked(rendezvous);
    if (!listen_here(meeting_name(rendezvous.job))) do_without_place(has_network);
    if (has_network) {
      listen_to_network();
    } else if (rendezvous.hosts == HostSpread::unknown) {
      remark_ = fmt::format(
          "{} keeps rank 0 off the network, on its host {}: for ranks on other hosts give all "
          "ranks an address of that host which they reach",
          host_setting_of(rendezvous), local_host_facts().host_name);
    }
  }

  std::unique_ptr<Bootstrap> await_all(Interrupt* interrupt) {
    const Deadline deadline = Deadline::after(limit_);
    try {
      Reception reception(listeners_, handshake_of(rendezvous_), kHelloBytesMax);
      while (static_cast<int>(others_.size()) < rendezvous_.size - 1) {
        if (deadline.has_passed()) throw lack_.value_or(missing());
        if (interrupt != nullptr) interrupt->check();
        for (Reception::Arrival& arrival : reception.wait()) {
          if (!is_of_another_user(arrival.socket)) let_in(std::move(arrival));
        }
        std::erase_if(others_, [](const auto& other) { return is_hung_up(other.second); });
      }
      if (lack_) throw *lack_;
    } catch (const Error& error) {
      // Who is called off may come again, as another rank may.
      if (error.code() != StatusCode::shut_down) tell_all(to_reply(error));
      throw;
    }
    tell_all(to_reply(std::vector<std::string>{}));
    return make_root_bootstrap(rendezvous_.size, std::move(others_));
  }

 private:
  // False where another process does.
  bool listen_here(const std::string& name) {
    Socket listener = try_listen_unix(name);
    if (!listener.is_open()) return false;
    listeners_.push_back(std::move(listener));
    return true;
  }

  // Another user's process, which may know the name, keeps nobody from meeting over the network;
  // nor does one that may be another user's.
  void do_without_place(bool has_network) {
    const Socket holder = connect_unix(meeting_name(rendezvous_.job));
    const std::string silence = holder.is_open() ? "" : std::strerror(errno);
    const bool is_own = holder.is_open() && !is_of_another_user(holder);
    std::string who = "a process of another user does; give the job another MASTER_PORT";
    if (is_own) {
      who =
          "another process does; either rank 0 was started twice, or another job on this host has "
          "the same meeting place: give each job a MASTER_PORT of its own";
    } else if (!holder.is_open()) {
      who = fmt::format(
          "another process does, and it is not known whose, since it does not answer "
          "({}): either rank 0 was started twice, or it is another job's or another "
          "user's; give the job another MASTER_PORT",
          silence);
    }
    const std::string problem =
        fmt::format("rank 0 cannot wait for the others at {}: {}{}", describe_place(rendezvous_),
                    who, advice_of(rendezvous_));
    // Ranks of this host that were given localhost, too, look at this place only.
    if (is_own || !has_network || leads_back(rendezvous_.host)) {
      throw Error(StatusCode::unavailable, problem);
    }
    remark(problem);
  }

  void remark(const std::string& text) {
    log_warning(text);
    remark_ += (remark_.empty() ? "" : ". ") + text;
  }

  void listen_to_network() {
    const std::vector<std::string> addresses = resolve(rendezvous_.host);
    if (addresses.empty()) {
      throw Error(StatusCode::unavailable,
                  fmt::format("rank 0 finds no address of its own host's name {}; set {} to "
                              "an address of the host of rank 0",
                              rendezvous_.host, rendezvous_.host_setting));
    }
    std::vector<std::string> own;
    std::ranges::copy_if(addresses, std::back_inserter(own), [](const std::string& address) {
      return !is_loopback(address) && is_own_address(address);
    });
    const bool is_named_here = std::ranges::any_of(addresses, is_loopback) || !own.empty();
    if (!is_named_here) wait_behind(addresses.front());
    // A host's own name may lead itself to its loopback interface, and others to it; or to that by
    // IPv4, and to an address of its own by IPv6.
    const auto is_ipv4 = [](const std::string& address) { return !is_ipv6(address); };
    const bool is_open = own.empty() || (std::ranges::none_of(own, is_ipv4) &&
                                         std::ranges::any_of(addresses, is_ipv4));
    if (own.empty()) {
      own = all_addresses(addresses);
    } else if (is_open) {
      own.emplace_back("0.0.0.0");
    }
    if (is_open && rendezvous_.secret.empty()) warn_of_strangers();
    listen_at(own);
  }

  // Of the families by which others may come: who is given a loopback address cannot know that.
  static std::vector<std::string> all_addresses(const std::vector<std::string>& addresses) {
    const bool is_any = std::ranges::any_of(addresses, is_loopback);
    std::vector<std::string> all;
    if (is_any || !std::ranges::all_of(addresses, is_ipv6)) all.emplace_back("0.0.0.0");
    const bool is_by_ipv6 = is_any || std::ranges::any_of(addresses, is_ipv6);
    if (is_by_ipv6 && is_own_address("::1")) all.emplace_back("::");
    return all;
  }

  // For ranks that the network leads here by an address which is none of this host's own.
  void wait_behind(const std::string& address) {
    const HostFacts facts = local_host_facts();
    remark(fmt::format(
        "{} leads to {}, which is none of the addresses of rank 0's host {} ({}), so rank 0 waits "
        "at all of these: see that what is sent there arrives here, or start rank 0 on the host "
        "that has that address",
        host_setting_of(rendezvous_), address, facts.host_name, fmt::join(facts.addresses, ", ")));
    if (listen_here(meeting_name_behind(rendezvous_))) return;
    remark(
        fmt::format("another process waits where ranks of rank 0's own host look for {}; give "
                    "each job a MASTER_PORT of its own",
                    rendezvous_.host));
  }

  void warn_of_strangers() const {
    log_warning(fmt::format(
        "rank 0 waits for the others at all addresses of its host {}, since {} names none of them, "
        "and without a SCALECOM_RENDEZVOUS_KEY: whoever reaches it and guesses how the job is "
        "named may join; give all ranks a key, or an address of that host",
        local_host_facts().host_name, host_setting_of(rendezvous_)));
  }

  // At each of the addresses where a port is free.
  void listen_at(const std::vector<std::string>& addresses) {
    std::vector<std::string> taken;
    std::ranges::copy_if(addresses, std::back_inserter(taken),
                         [&](const std::string& address) { return !has_free_port(address); });
    if (taken.empty()) return;
    const std::string problem = fmt::format(
        "rank 0 cannot wait for the others on {} ({}): the ports {} are taken; set "
        "SCALECOM_RENDEZVOUS=host:port to a free one, on all ranks",
        rendezvous_.host, fmt::join(taken, ", "), fmt::join(rendezvous_.ports, ", "));
    // Nobody was promised that it would listen there.
    const bool is_extra = rendezvous_.hosts != HostSpread::several && leads_back(rendezvous_.host);
    if (!is_extra && taken.size() == addresses.size()) {
      throw Error(StatusCode::unavailable, problem);
    }
    remark(problem);
  }

  // Listens there.
  bool has_free_port(const std::string& address) {
    for (const int port : rendezvous_.ports) {
      Socket listener = try_listen_tcp(address, port);
      if (!listener.is_open()) continue;
      listeners_.push_back(std::move(listener));
      return true;
    }
    return false;
  }

  void let_in(Reception::Arrival arrival) {
    const int rank = arrival.rank;
    if (rank < 1) return;
    if (lack_) {  // It may be one too many to keep.
      send_frame(arrival.socket, to_reply(*lack_), Deadline::after(kVerdictTime));
      others_.insert_or_assign(rank, Socket());
      return;
    }
    const auto [place, is_new] = others_.try_emplace(rank, std::move(arrival.socket));
    if (arrival.hello != std::to_string(rendezvous_.size)) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("WORLD_SIZE is {} on rank 0 and {} on rank {}; give it one value on "
                              "all ranks",
                              rendezvous_.size, arrival.hello, rank));
    }
    if (rank >= rendezvous_.size) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("a process says that it is rank {} of {}; RANK is from 0 to {}", rank,
                              rendezvous_.size, rendezvous_.size - 1));
    }
    if (is_new) return;
    if (is_hung_up(place->second)) {  // It was started anew.
      place->second = std::move(arrival.socket);
      return;
    }
    others_.emplace(-1, std::move(arrival.socket));  // It is to be told, too.
    throw Error(
        StatusCode::invalid_argument,
        fmt::format("two processes say that they are rank {}; give each a RANK of its own{}", rank,
                    advice_of(rendezvous_)));
  }

  Error missing() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < rendezvous_.size; ++rank) {
      if (!others_.contains(rank)) ranks.push_back(rank);
    }
    return {StatusCode::timed_out,
            fmt::format("rank {} of {} did not come to init() within {:g} s; see that each was "
                        "started and calls init(), and {}; if one only comes later, raise "
                        "SCALECOM_CONNECT_TIMEOUT{}{}{}",
                        fmt::join(ranks, ", "), rendezvous_.size, limit_.count(), kSameForAll,
                        remark_.empty() ? "" : ". ", remark_, advice_of(rendezvous_))};
  }

  void tell_all(const std::string& reply) {
    for (auto& [rank, socket] : others_) {
      send_frame(socket, reply, Deadline::after(kVerdictTime));
    }
  }

  const Rendezvous& rendezvous_;
  const Bootstrap::Limit limit_;
  std::optional<Error> lack_;  ///< of descriptors: each that comes is told, and none is kept
  std::vector<Socket> listeners_;
  std::string remark_;  ///< on where it waits; empty: as all would expect
  std::map<int, Socket> others_;
};

/// Another rank while it looks for rank 0.
class Guest {
 public:
  Guest(const Rendezvous& rendezvous, Bootstrap::Limit limit, Interrupt* interrupt)
      : rendezvous_(rendezvous),
        handshake_(handshake_of(rendezvous)),
        limit_(limit),
        interrupt_(interrupt),
        looks_here_only_(looks_here_only(rendezvous)) {
    if (!looks_here_only_ || rendezvous.hosts == HostSpread::one) return;
    finding_ += fmt::format(
        ", and {} has this rank look on its own host {} only: if rank 0 is on another, give all "
        "ranks an address of that host which they reach",
        host_setting_of(rendezvous), local_host_facts().host_name);
  }

  std::unique_ptr<Bootstrap> come() {
    const WaitContext context{Deadline::after(limit_), interrupt_};
    WaitLoop loop(context);
    while (true) {
      if (Socket root = find_root(context.deadline); root.is_open()) {
        return make_member_bootstrap(rendezvous_.rank, rendezvous_.size, std::move(root));
      }
      try {
        loop.pause("finding rank 0");
      } catch (const Error& error) {
        if (error.code() != StatusCode::timed_out) throw;
        throw Error(StatusCode::timed_out,
                    fmt::format("rank {} did not find rank 0 at {} within {:g} s: {}. See that "
                                "rank 0 was started and calls init(), that no other process has "
                                "this rank's number, and {}; if rank 0 only comes later, raise "
                                "SCALECOM_CONNECT_TIMEOUT{}",
                                rendezvous_.rank, describe_place(rendezvous_), limit_.count(),
                                finding_, kSameForAll, advice_of(rendezvous_)));
      }
    }
  }

 private:
  // One try at each place.
  Socket find_root(Deadline deadline) {
    if (looks_here_only_) return find_root_here(meeting_name(rendezvous_.job), deadline);
    const std::vector<std::string> addresses = resolve(rendezvous_.host);
    if (addresses.empty()) {
      finding_ = rendezvous_.host + " has no address";
      return {};
    }
    // Rank 0 of another job with this port may wait here, if ours is elsewhere.
    const bool is_here = std::ranges::any_of(addresses, [](const std::string& address) {
      return is_loopback(address) || is_own_address(address);
    });
    Socket root = find_root_here(
        is_here ? meeting_name(rendezvous_.job) : meeting_name_behind(rendezvous_), deadline);
    std::vector<std::string> refusals;
    for (const std::string& address : addresses) {
      if (!root.is_open()) root = find_root_at(address, addresses.size() > 1, deadline, refusals);
    }
    // Who has answered tells more than who has not, and a try that was cut short tells nothing new.
    if (!root.is_open() && !has_answered_ && !(was_refused_ && deadline.has_passed())) {
      was_refused_ = true;
      finding_ = fmt::format(
          "nobody answers there ({}; a rank 0 with MASTER_ADDR=localhost keeps off the network)",
          fmt::join(refusals, ", "));
    }
    return root;
  }

  Socket find_root_here(const std::string& name, Deadline deadline) {
    Socket root = connect_unix(name);
    if (!root.is_open()) return {};
    if (is_of_another_user(root)) {
      finding_ =
          "a process of another user waits at this host's meeting place; give the job another "
          "MASTER_PORT";
      return {};
    }
    // A process of this user, which may have many to answer: who left would begin anew behind them.
    return is_root(root, "this host", deadline) ? std::move(root) : Socket();
  }

  // Adds to `refusals` why nobody is there. One of many that is silent costs a round the time of
  // one try, and the next begins behind that port: rank 0 may have come to another meanwhile.
  Socket find_root_at(const std::string& address, bool is_one_of_many, Deadline deadline,
                      std::vector<std::string>& refusals) {
    std::string refusal;
    const std::vector<int>& ports = rendezvous_.ports;
    std::size_t& first = first_port_[address];
    const std::size_t begin = first;
    for (std::size_t step = 0; step < ports.size(); ++step) {
      const std::size_t place = (begin + step) % ports.size();
      if (interrupt_ != nullptr) interrupt_->check();
      Socket root = connect_tcp(address, ports[place], soon(deadline));
      if (root.is_open()) {
        if (is_root(root, show_place(rendezvous_.host, ports[place]), soon(deadline))) return root;
        refusal.clear();
        continue;
      }
      const int error = errno;
      refusal = std::strerror(error);
      if (is_one_of_many && error == ETIMEDOUT) {
        first = (place + 1) % ports.size();
        break;
      }
    }
    refusals.push_back(fmt::format("{}: {}", address, refusal));
    return {};
  }

  // Says who this rank is, by the deadline, and waits until all have come.
  bool is_root(const Socket& socket, const std::string& place, Deadline deadline) {
    if (!introduce_to_parent(socket, handshake_, rendezvous_.rank, deadline)) {
      const bool is_late = deadline.has_passed();
      // A try that was cut short tells nothing new.
      if (is_late && has_answered_) return false;
      has_answered_ = true;
      finding_ = fmt::format(
          "who waits at {} {}", place,
          is_late
              ? "did not answer in time: if it is rank 0, see whether it is stopped or very busy"
              : "is not rank 0 of this job, or has another SCALECOM_RENDEZVOUS_KEY");
      return false;
    }
    const std::string hello = std::to_string(rendezvous_.size);
    std::optional<std::string> reply;
    // Rank 0 has waited before this rank came, so that its time is over first.
    const Deadline verdict = Deadline::after(limit_ + kVerdictTime);
    if (send_frame(socket, hello, deadline) && wait_for_bytes(socket, {verdict, interrupt_})) {
      reply = receive_frame(socket, verdict);
    }
    if (!reply) {
      has_answered_ = true;
      finding_ = fmt::format("rank 0, at {}, {}", place,
                             verdict.has_passed()
                                 ? "did not say in time that all had come: see whether it is "
                                   "stopped or very busy"
                                 : "closed the connection before all had come");
      return false;
    }
    read_reply(*reply);
    return true;
  }

  static Deadline soon(Deadline deadline) { return std::min(deadline, Deadline::after(kTryTime)); }

  const Rendezvous& rendezvous_;
  const Handshake handshake_;
  const Bootstrap::Limit limit_;
  Interrupt* const interrupt_;
  const bool looks_here_only_;
  std::string finding_ = "nobody answers there";
  bool has_answered_ = false;
  bool was_refused_ = false;
  std::map<std::string, std::size_t> first_port_;  ///< of an address, where a round begins
};

}  // namespace

std::string meeting_name(const std::string& job) {
  return "scalecom-meet-" + to_hex(derive_key(std::to_string(geteuid()), job)).substr(0, 32);
}

std::unique_ptr<Bootstrap> meet(const Rendezvous& rendezvous, Bootstrap::Limit limit,
                                Interrupt* interrupt) {
  SCALECOM_ASSERT(rendezvous.rank >= 0 && rendezvous.rank < rendezvous.size,
                  fmt::format("rank {} of {}", rendezvous.rank, rendezvous.size));
  if (rendezvous.rank == 0) return Host(rendezvous, limit).await_all(interrupt);
  return Guest(rendezvous, limit, interrupt).come();
}

}  // namespace scalecom
