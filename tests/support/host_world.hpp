#pragma once

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "collective/shm/hierarchical.hpp"
#include "tests/support/board_world.hpp"
#include "tests/support/ranks.hpp"
#include "transport/loopback/loopback_transport.hpp"

namespace scalecom::test {

/// Ranks on hosts.
struct Job {
  HostRanks hosts;
  int size = 0;
};

/// Calls body(rank, collectives) for every rank of the job, in a thread each. Small slots make many
/// blocks of a few thousand elements.
inline void run_job(const Job& job, std::size_t slot_bytes,
                    const std::function<void(int rank, HierarchicalCollectives&)>& body) {
  const auto index = [](int value) { return static_cast<std::size_t>(value); };
  LoopbackWorld between(job.size);
  std::vector<BoardWorld> inside;
  std::vector<std::pair<std::size_t, int>> place_of(index(job.size));
  for (std::size_t h = 0; h < job.hosts.size(); ++h) {
    inside.emplace_back(static_cast<int>(job.hosts[h].size()), slot_bytes);
    for (std::size_t local = 0; local < job.hosts[h].size(); ++local) {
      place_of[index(job.hosts[h][local])] = {h, static_cast<int>(local)};
    }
  }
  run_ranks(job.size, [&](int rank) {
    const auto [host, local] = place_of[index(rank)];
    const auto transport = between.make_transport(rank);
    Board board = inside[host].make_board(local);
    HierarchicalCollectives collectives(board, *transport, job.hosts);
    body(rank, collectives);
  });
}

}  // namespace scalecom::test
