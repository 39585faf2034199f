#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.hpp"
#include "runtime/session_bootstrap.hpp"
#include "runtime/session_impl.hpp"
#include "scalecom/session.hpp"

namespace scalecom {
namespace {

void check_ranks(const std::vector<int>& ranks, int size) {
  const auto refuse = [](const std::string& problem) {
    throw Error(StatusCode::invalid_argument, "a process set " + problem);
  };
  if (ranks.empty()) refuse("needs one rank or more");
  for (const int rank : ranks) {
    if (rank < 0 || rank >= size) {
      refuse(fmt::format("has the rank {}; the job has 0 to {}", rank, size - 1));
    }
    if (std::ranges::count(ranks, rank) > 1) refuse(fmt::format("has the rank {} twice", rank));
  }
}

// Without MPI, without the files that the whole session writes, and without what it tunes.
Config config_of_set(Config config) {
  if (config.allreduce_algorithm == "mpi") config.allreduce_algorithm = "auto";
  config.health_file.clear();
  config.timeline.clear();
  config.autotune = false;
  return config;
}

// What the caller's function exchanges.
class GivenBootstrap final : public Bootstrap {
 public:
  GivenBootstrap(int rank, int size, const Session::Exchange& exchange)
      : rank_(rank), size_(size), exchange_(exchange) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    std::vector<std::string> all = exchange_(mine, limit.count());
    if (static_cast<int>(all.size()) != size_) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("the exchange gave {} texts for {} ranks", all.size(), size_));
    }
    return all;
  }

  const int rank_;
  const int size_;
  const Session::Exchange& exchange_;
};

std::unique_ptr<Session> connect_set(const Config& config, const std::vector<int>& ranks,
                                     Bootstrap& bootstrap) {
  SessionParts parts = connect_over(bootstrap, config_of_set(config));
  parts.scope = fmt::format("process set of ranks [{}], which are numbered from 0 in it: ",
                            fmt::join(ranks, ", "));
  return std::make_unique<Session>(std::make_unique<SessionImpl>(std::move(parts)));
}

}  // namespace

std::unique_ptr<Session> Session::make_process_set(const std::vector<int>& ranks) {
  check_ranks(ranks, topology().size);
  SessionBootstrap bootstrap(*this, ranks);
  std::unique_ptr<Session> session;
  Status mine;
  if (bootstrap.rank() >= 0) {
    try {
      session = connect_set(impl_->config(), ranks, bootstrap);
    } catch (const Error& error) {
      mine = error.status();
    } catch (const std::exception& error) {
      mine = Status(StatusCode::internal, error.what());
    }
  }
  if (const Status status = bootstrap.finish(mine); !status.is_ok()) throw Error(status);
  return session;
}

std::unique_ptr<Session> Session::connect_process_set(const std::vector<int>& ranks,
                                                      const Exchange& exchange) const {
  impl_->check_process();
  check_ranks(ranks, topology().size);
  const int place = place_of(topology().rank, ranks);
  if (place < 0) {
    throw Error(StatusCode::invalid_argument,
                fmt::format("rank {} connects a process set of the ranks [{}], which it is not "
                            "one of",
                            topology().rank, fmt::join(ranks, ", ")));
  }
  GivenBootstrap bootstrap(place, static_cast<int>(ranks.size()), exchange);
  return connect_set(impl_->config(), ranks, bootstrap);
}

}  // namespace scalecom
