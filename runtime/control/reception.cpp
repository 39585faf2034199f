#include "runtime/control/reception.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace scalecom {
namespace {

constexpr std::size_t kVisitorsMax = 256;
// How long a visitor may take to read a proof.
constexpr auto kProofTime = std::chrono::seconds(1);

}  // namespace

std::vector<Reception::Arrival> Reception::wait() {
  wait_for_news();
  for (const Socket& listener : listeners_) welcome(listener);
  std::vector<Arrival> arrivals;
  std::vector<Visitor> unfinished;
  for (Visitor& visitor : visitors_) {
    const Reading reading = read_answer(visitor);
    if (reading == Reading::unfinished) {
      unfinished.push_back(std::move(visitor));
    } else if (reading == Reading::proved) {
      const int rank = *handshake_.check_answer(visitor.challenge, visitor.answer);
      arrivals.push_back({rank, std::move(visitor.socket)});
    }
  }
  visitors_ = std::move(unfinished);
  return arrivals;
}

void Reception::wait_for_news() const {
  std::vector<pollfd> descriptors;
  for (const Socket& listener : listeners_) {
    descriptors.push_back({listener.descriptor(), POLLIN, 0});
  }
  for (const Visitor& visitor : visitors_) {
    descriptors.push_back({visitor.socket.descriptor(), POLLIN, 0});
  }
  poll(descriptors.data(), descriptors.size(), 100);
}

void Reception::welcome(const Socket& listener) {
  while (true) {
    Socket socket(accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.is_open()) return;
    // The oldest silent visitor makes room.
    if (visitors_.size() >= kVisitorsMax) visitors_.erase(visitors_.begin());
    Visitor visitor{std::move(socket), random_bytes(kChallengeBytes), {}};
    const auto sent = send(visitor.socket.descriptor(), visitor.challenge.data(),
                           visitor.challenge.size(), MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(kChallengeBytes)) visitors_.push_back(std::move(visitor));
  }
}

Reception::Reading Reception::read_answer(Visitor& visitor) const {
  std::array<char, kAnswerBytes> buffer;
  const auto got =
      recv(visitor.socket.descriptor(), buffer.data(), kAnswerBytes - visitor.answer.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Reading::unfinished;
  if (got <= 0) return Reading::refused;
  visitor.answer.append(buffer.data(), static_cast<std::size_t>(got));
  if (visitor.answer.size() < kAnswerBytes) return Reading::unfinished;
  if (!handshake_.check_answer(visitor.challenge, visitor.answer)) return Reading::refused;
  const std::string proof = handshake_.prove(visitor.challenge, visitor.answer);
  const bool is_sent = send_all(visitor.socket, proof, Deadline::after(kProofTime));
  return is_sent ? Reading::proved : Reading::refused;
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
