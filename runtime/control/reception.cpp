#include "runtime/control/reception.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "runtime/control/frames.hpp"

namespace scalecom {
namespace {

// How long a visitor may take, and how long while others may be waiting for its place.
constexpr auto kVisitTime = std::chrono::seconds(5);
constexpr auto kVisitTimeWhenFull = std::chrono::seconds(1);

}  // namespace

std::vector<Reception::Arrival> Reception::wait() {
  const std::vector<pollfd> news = wait_for_news();
  std::vector<Arrival> arrivals;
  for (std::size_t place = 0; place < visitors_.size(); ++place) {
    if (news[listeners_.size() + place].revents == 0) continue;
    Visitor& visitor = visitors_[place];
    const Reading reading = read(visitor);
    if (reading == Reading::unfinished) continue;
    Socket socket = std::move(visitor.socket);
    if (reading == Reading::refused) continue;
    std::string_view hello = visitor.received;
    arrivals.push_back(
        {*visitor.rank, std::move(socket), hello_bytes_max_ == 0 ? "" : take_frame(hello)});
  }
  for (Visitor& visitor : visitors_) {
    if (has_overstayed(visitor)) visitor.socket = Socket();
  }
  std::erase_if(visitors_, [](const Visitor& visitor) { return !visitor.socket.is_open(); });
  // One of each, so that no listener's crowd keeps another's out. Without poll()'s word accept()
  // may fail for want of descriptors where nobody came.
  for (std::size_t i = 0; i < listeners_.size(); ++i) {
    if (news[i].revents != 0) welcome(listeners_[i], arrivals.empty());
  }
  return arrivals;
}

bool Reception::is_crowded(const std::string& origin) const {
  const auto is_from_there = [&](const Visitor& visitor) { return visitor.origin == origin; };
  return !origin.empty() && 2 * std::ranges::count_if(visitors_, is_from_there) >=
                                static_cast<std::ptrdiff_t>(visitors_max_);
}

bool Reception::has_overstayed(const Visitor& visitor) const {
  const auto stay = Clock::now() - visitor.came;
  return stay > kVisitTime ||
         (stay > kVisitTimeWhenFull && (is_full() || is_crowded(visitor.origin)));
}

std::vector<pollfd> Reception::wait_for_news() const {
  std::vector<pollfd> descriptors;
  for (const Socket& listener : listeners_) {
    // Those who wait there are no news while there is no place for them: poll() skips -1.
    descriptors.push_back({is_full() ? -1 : listener.descriptor(), POLLIN, 0});
  }
  for (const Visitor& visitor : visitors_) {
    descriptors.push_back({visitor.socket.descriptor(), POLLIN, 0});
  }
  poll(descriptors.data(), descriptors.size(), 100);
  return descriptors;
}

void Reception::welcome(const Socket& listener, bool is_first) {
  if (is_full()) return;
  Socket socket(accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.is_open()) {
    if (errno != EMFILE && errno != ENFILE) return;
    if (visitors_.empty() && is_first) throw_errno("accepting a connection");
    visitors_max_ = std::max(visitors_.size(), std::size_t{1});
    return;
  }
  // There may be descriptors again: the next one tells.
  visitors_max_ = std::min(visitors_max_ + 1, kVisitorsMax);
  std::string origin = origin_of(socket);
  if (is_crowded(origin)) return;
  Visitor visitor{
      std::move(socket), std::move(origin), Clock::now(), random_bytes(kChallengeBytes), {}, {}};
  const auto sent = send(visitor.socket.descriptor(), visitor.challenge.data(),
                         visitor.challenge.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(kChallengeBytes)) visitors_.push_back(std::move(visitor));
}

Reception::Reading Reception::read(Visitor& visitor) const {
  while (true) {
    const std::size_t bytes = visitor.rank ? frame_bytes(visitor.received) : kAnswerBytes;
    if (visitor.received.size() == bytes) {
      if (visitor.rank) return Reading::finished;
      if (!check(visitor)) return Reading::refused;
      if (hello_bytes_max_ == 0) return Reading::finished;
      visitor.received.clear();
      continue;
    }
    if (visitor.rank && bytes > frame_bytes({}) + hello_bytes_max_) return Reading::refused;
    std::array<char, 128> buffer;
    const auto got = recv(visitor.socket.descriptor(), buffer.data(),
                          std::min(buffer.size(), bytes - visitor.received.size()), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Reading::unfinished;
    if (got <= 0) return Reading::refused;
    visitor.received.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

// Gives a proof for a proof. A new connection takes a proof at once, or its peer reads nothing.
bool Reception::check(Visitor& visitor) const {
  visitor.rank = handshake_.check_answer(visitor.challenge, visitor.received);
  if (!visitor.rank) return false;
  const std::string proof = handshake_.prove(visitor.challenge, visitor.received);
  const auto sent = send(visitor.socket.descriptor(), proof.data(), proof.size(), MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(proof.size());
}

bool introduce_to_parent(const Socket& socket, const Handshake& handshake, int rank,
                         Deadline deadline) {
  const std::string challenge = receive_exactly(socket, kChallengeBytes, deadline);
  if (challenge.empty()) return false;
  const std::string answer = handshake.answer(challenge, rank);
  if (!send_all(socket, answer, deadline)) return false;
  return handshake.is_proof(receive_exactly(socket, kProofBytes, deadline), challenge, answer);
}

}  // namespace scalecom
