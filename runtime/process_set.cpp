#include <fmt/format.h>

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

// Without MPI, and without the files that the whole session writes.
Config config_of_set(Config config) {
  if (config.allreduce_algorithm == "mpi") config.allreduce_algorithm = "auto";
  config.health_file.clear();
  config.timeline.clear();
  return config;
}

}  // namespace

std::unique_ptr<Session> Session::make_process_set(const std::vector<int>& ranks) {
  check_ranks(ranks, topology().size);
  SessionBootstrap bootstrap(*this, ranks);
  std::unique_ptr<Session> session;
  Status mine;
  if (bootstrap.rank() >= 0) {
    try {
      session = std::make_unique<Session>(std::make_unique<SessionImpl>(
          connect_process_set(config_of_set(impl_->config()), bootstrap)));
    } catch (const Error& error) {
      mine = error.status();
    } catch (const std::exception& error) {
      mine = Status(StatusCode::internal, error.what());
    }
  }
  if (const Status status = bootstrap.finish(mine); !status.is_ok()) {
    throw Error(status.code(), status.message());
  }
  return session;
}

}  // namespace scalecom
