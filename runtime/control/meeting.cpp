#include "runtime/control/meeting.hpp"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/lost_rank.hpp"
#include "runtime/control/frames.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

// How a lost rank is noticed here.
constexpr const char* kClosed = "its connection closed while the ranks connected";

/// Rank 0's end: the others' connections, by rank.
class RootBootstrap final : public Bootstrap {
 public:
  RootBootstrap(int size, std::map<int, Socket> others) : size_(size), others_(std::move(others)) {}

  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return size_; }

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    std::vector<std::string> blobs{mine};
    try {
      gather(blobs, limit);
    } catch (const Error& error) {
      tell_all(to_reply(error), Deadline::after(kVerdictTime));
      throw;
    }
    tell_all(to_reply(blobs), Deadline::after(limit));
    return blobs;
  }

  void gather(std::vector<std::string>& blobs, Limit limit) {
    const Deadline deadline = Deadline::after(limit);
    std::vector<int> late;
    for (auto& [rank, socket] : others_) {
      std::optional<std::string> blob = receive_frame(socket, deadline);
      if (!blob && is_hung_up(socket)) throw lost_rank(rank, kClosed);
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
};

/// Another rank's end.
class MemberBootstrap final : public Bootstrap {
 public:
  MemberBootstrap(int rank, int size, Socket root)
      : rank_(rank), size_(size), root_(std::move(root)) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    const Deadline deadline = Deadline::after(limit + kVerdictTime);
    std::optional<std::string> reply;
    if (send_frame(root_, mine, deadline)) reply = receive_frame(root_, deadline);
    if (!reply && !deadline.has_passed()) throw lost_rank(0, kClosed);
    if (!reply) {
      throw Error(StatusCode::timed_out,
                  fmt::format("rank 0 did not go on connecting within {:g} s; see whether it is "
                              "stopped or busy, or raise SCALECOM_CONNECT_TIMEOUT",
                              limit.count()));
    }
    std::vector<std::string> blobs = read_reply(*reply);
    if (static_cast<int>(blobs.size()) != size_) {
      throw Error(StatusCode::internal,
                  fmt::format("rank 0 passed on {} texts of {} ranks", blobs.size(), size_));
    }
    return blobs;
  }

  const int rank_;
  const int size_;
  Socket root_;
};

}  // namespace

std::string to_reply(const std::vector<std::string>& blobs) {
  std::string reply = "+";
  for (const std::string& blob : blobs) append_frame(reply, blob);
  return reply;
}

std::string to_reply(const Error& error) { return "-" + to_blob(error.status()); }

std::vector<std::string> read_reply(std::string_view reply) {
  if (reply.starts_with("-")) throw Error(status_of(std::string(reply.substr(1))));
  if (!reply.starts_with("+")) throw Error(StatusCode::internal, "rank 0 sent a malformed reply");
  std::vector<std::string> blobs;
  for (reply.remove_prefix(1); !reply.empty();) blobs.push_back(take_frame(reply));
  return blobs;
}

std::unique_ptr<Bootstrap> make_root_bootstrap(int size, std::map<int, Socket> others) {
  return std::make_unique<RootBootstrap>(size, std::move(others));
}

std::unique_ptr<Bootstrap> make_member_bootstrap(int rank, int size, Socket root) {
  return std::make_unique<MemberBootstrap>(rank, size, std::move(root));
}

}  // namespace scalecom
