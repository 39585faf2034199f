#include "transport/bootstrap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>

namespace scalecom {

std::vector<std::string> Bootstrap::exchange(const std::string& mine, Limit limit) {
  if (failure_) throw *failure_;
  try {
    return exchange_in_step(mine, limit);
  } catch (const Error& error) {
    failure_ = error;
    throw;
  } catch (const std::exception& error) {
    failure_ = Error(StatusCode::internal, error.what());
    throw;
  }
}

Error ranks_missing(int ranks, Bootstrap::Limit limit) {
  const std::string all = ranks > 0 ? fmt::format("all {} ranks", ranks) : "all ranks";
  return {StatusCode::timed_out,
          fmt::format("not {} that the launcher started came to init() within {:g} s; each of its "
                      "processes has to call init(): look for one that never does, is still busy "
                      "before it, stopped or lost. If one only comes later, raise "
                      "SCALECOM_CONNECT_TIMEOUT",
                      all, limit.count())};
}

void CallOff::check() {
  if (!token_.stop_requested()) return;
  throw Error(
      StatusCode::shut_down,
      "init() was called off, by shutdown() or an interrupt, while it waited for other ranks");
}

std::string to_blob(const Status& status) {
  if (status.is_ok()) return {};
  return fmt::format("{} {}", static_cast<int>(status.code()), status.message());
}

Status status_of(const std::string& blob) {
  if (blob.empty()) return {};
  int code = 0;
  std::from_chars(blob.data(), blob.data() + blob.size(), code);
  const bool is_known = code > 0 && code <= static_cast<int>(StatusCode::internal);
  return Status(is_known ? static_cast<StatusCode>(code) : StatusCode::internal,
                blob.substr(blob.find(' ') + 1));
}

Status first_failure(Bootstrap& bootstrap, const Status& mine, Deadline end,
                     Bootstrap::Limit limit) {
  const Bootstrap::Limit left = std::max(end.at() - Clock::now(), Clock::duration::zero());
  const Bootstrap::Limit behind = std::max(limit / 2, Bootstrap::Limit(1.0));
  // In tenths of a second, as messages tell it.
  const Bootstrap::Limit wait(std::ceil(10 * (left + behind).count()) / 10);
  Status first;
  for (const std::string& blob : bootstrap.exchange(to_blob(mine), wait)) {
    if (first.is_ok()) first = status_of(blob);
  }
  return first;
}

}  // namespace scalecom
