#pragma once

#include <string>
#include <vector>

#include "scalecom/session.hpp"
#include "transport/bootstrap.hpp"

namespace scalecom {

/// Of `rank` in `ranks`; -1 when it is not among them.
int place_of(int rank, const std::vector<int>& ranks);

/// Some ranks of a session meet to become ranks of another one. What they exchange travels in
/// all-gathers of the session, in which its other ranks take part too, so every rank of the session
/// makes one of these, and then calls finish(). How long a rank is waited for is the session's
/// matter, as for any tensor: the stall check names it.
class SessionBootstrap final : public Bootstrap {
 public:
  /// Throws Error(invalid_argument) on every rank when they do not all give the same `ranks`.
  SessionBootstrap(Session& session, std::vector<int> ranks);

  /// This rank's place in `ranks`; -1 when it is not among them.
  int rank() const noexcept override { return place_; }
  int size() const noexcept override { return static_cast<int>(ranks_.size()); }
  /// Ends the meeting for this rank: with why it failed, or Ok. Returns when all have ended it, and
  /// then, on all ranks, the first failure, or Ok.
  Status finish(const Status& mine);

 private:
  /// Of those in `ranks` only. Throws what another one has finished with.
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override;
  std::vector<std::string> gather(const std::string& mine);
  std::vector<std::string> take_round(const std::string& mine);

  Session& session_;
  std::vector<int> ranks_;
  const int place_;
};

}  // namespace scalecom
