#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "collective/message_collectives.hpp"
#include "collective/shm/hierarchical.hpp"
#include "runtime/control/loopback_channel.hpp"
#include "runtime/session_impl.hpp"
#include "scalecom/session.hpp"
#include "transport/loopback/loopback_transport.hpp"

namespace scalecom::test {

/// Throws what a rank's thread must not go on after, where Catch's macros have no place.
inline void expect_ok(const Status& status) {
  if (!status.is_ok()) throw Error(status);
}

/// Sessions of `size` ranks in one process: the real runtime over in-process transports.
class SessionWorld {
 public:
  using Adjust = std::function<void(int rank, SessionParts&)>;
  explicit SessionWorld(int size, Config config = {}, const Adjust& adjust = {})
      : data_(size), control_(size) {
    for (int rank = 0; rank < size; ++rank) {
      SessionParts parts;
      parts.config = config;
      parts.topology.rank = parts.topology.local_rank = rank;
      parts.topology.size = parts.topology.local_size = size;
      parts.topology.hosts.assign(static_cast<std::size_t>(size), "here");
      parts.transport = data_.make_transport(rank);
      if (config.allreduce_algorithm == "auto") {
        use_pipeline(parts);
      } else {
        parts.collectives =
            std::make_unique<MessageCollectives>(*parts.transport, config.allreduce_algorithm);
      }
      parts.channel = control_.make_channel(rank);
      if (adjust) adjust(rank, parts);
      sessions_.push_back(
          std::make_unique<Session>(std::make_unique<SessionImpl>(std::move(parts))));
    }
  }

  Session& operator[](int rank) { return *sessions_[static_cast<std::size_t>(rank)]; }
  int size() const { return static_cast<int>(sessions_.size()); }

  /// The rank's process is gone, as far as the others can see.
  void lose(int rank) {
    data_.lose(rank);
    control_.lose(rank);
  }

 private:
  // As ranks on hosts of their own have it.
  static void use_pipeline(SessionParts& parts) {
    constexpr std::size_t kSlotBytes = 64 << 10;
    HostRanks hosts;
    for (int rank = 0; rank < parts.topology.size; ++rank) hosts.push_back({rank});
    parts.board_memory.resize(Board::bytes_for(1, kSlotBytes) / Board::kLineBytes);
    parts.board = std::make_unique<Board>(std::as_writable_bytes(std::span(parts.board_memory)), 0,
                                          1, kSlotBytes);
    parts.collectives =
        std::make_unique<HierarchicalCollectives>(*parts.board, *parts.transport, hosts);
  }

  LoopbackWorld data_;
  LoopbackControlWorld control_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

inline TensorView view_of(std::vector<float>& values) {
  return {values.data(), DataType::float32, {static_cast<std::int64_t>(values.size())}, {}};
}

}  // namespace scalecom::test
