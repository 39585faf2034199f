#pragma once

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.hpp"
#include "base/wait.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

/// How the ranks of a job first hear of each other: a trusted, slow, blocking exchange.
class Bootstrap {
 public:
  using Limit = std::chrono::duration<double>;

  virtual ~Bootstrap() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// Every rank gives a blob (any size) and gets everyone's, in rank order. Throws ranks_missing()
  /// when not all have come within `limit`. Once it has failed, the ranks are out of step, and each
  /// further call throws the same at once: what one step of connecting met is the next one's cause.
  /// The limit is longer than any rank may be busy before it comes.
  std::vector<std::string> exchange(const std::string& mine, Limit limit);
  bool is_out_of_step() const noexcept { return failure_.has_value(); }

 private:
  virtual std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) = 0;

  std::optional<Error> failure_;
};

/// Error(timed_out) for a step of connecting that not all ranks came to within `limit`. Which ones
/// did not cannot be known: such a step ends for all ranks or for none. `ranks` were started; 0
/// when the launcher does not say.
Error ranks_missing(int ranks, Bootstrap::Limit limit);

/// Ends the waits of connecting once the token says so, by Error(shut_down).
class CallOff final : public Interrupt {
 public:
  explicit CallOff(std::stop_token token) : token_(std::move(token)) {}
  void check() override;

 private:
  std::stop_token token_;
};

/// A status for an exchange: empty where it is ok.
std::string to_blob(const Status& status);
/// Of such a blob; internal for a code that is not known.
Status status_of(const std::string& blob);

/// Every rank says how a step went that all began together, and that may take `limit`: until `end`
/// here. One may have failed at once, another as late as it may; who is later than that by half the
/// limit, or by a second where that is more, is missing. All get the failure of the lowest rank
/// that has one, or ok.
Status first_failure(Bootstrap& bootstrap, const Status& mine, Deadline end,
                     Bootstrap::Limit limit);

}  // namespace scalecom
