#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "runtime/device/choose_collectives.hpp"
#include "tests/support/board_world.hpp"
#include "tests/support/fake_accelerator.hpp"
#include "tests/support/session_world.hpp"

namespace scalecom::test {

/// Memory that the ranks of each host share, as SessionWorld's ranks do not by themselves.
class HostsWorld {
 public:
  /// What stands before each rank's transport; none: nothing.
  using Wrap = std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)>;
  explicit HostsWorld(HostRanks hosts, Wrap wrap = {})
      : hosts_(std::move(hosts)), wrap_(std::move(wrap)) {
    for (const auto& ranks : hosts_)
      boards_.emplace_back(static_cast<int>(ranks.size()), kSlotBytes);
  }

  /// Gives `rank` its place.
  void equip(int rank, SessionParts& parts) {
    parts.host_of_rank.assign(static_cast<std::size_t>(parts.topology.size), 0);
    for (std::size_t host = 0; host < hosts_.size(); ++host) {
      for (std::size_t local = 0; local < hosts_[host].size(); ++local) {
        parts.host_of_rank[static_cast<std::size_t>(hosts_[host][local])] = static_cast<int>(host);
        if (hosts_[host][local] != rank) continue;
        parts.board = std::make_unique<Board>(boards_[host].make_board(static_cast<int>(local)));
      }
    }
    if (wrap_) parts.transport = wrap_(std::move(parts.transport));
    parts.collectives =
        std::make_unique<HierarchicalCollectives>(*parts.board, *parts.transport, hosts_);
  }

 private:
  static constexpr std::size_t kSlotBytes = 64 << 10;
  const HostRanks hosts_;
  const Wrap wrap_;
  std::vector<BoardWorld> boards_;
};

/// Sessions whose ranks have an accelerator each, in host memory, with streams of `seed`.
class DeviceWorld {
 public:
  /// What a rank loads as NCCL; empty: it has none.
  using LoadNccl = std::function<device::nccl::Api(FakeAccelerator&)>;
  /// Hosts: where each rank is; null: each on its own.
  DeviceWorld(int size, std::uint64_t seed, LoadNccl load_nccl = {}, HostsWorld* hosts = nullptr,
              const Config& config = {})
      : load_nccl_(std::move(load_nccl)),
        hosts_(hosts),
        made_(static_cast<std::size_t>(size)),
        world_(size, config, [&](int rank, SessionParts& parts) { equip(rank, parts, seed); }) {}

  Session& operator[](int rank) { return world_[rank]; }
  FakeAccelerator& accelerator(int rank) { return *made_[static_cast<std::size_t>(rank)].fake; }
  void lose(int rank) { world_.lose(rank); }

 private:
  struct Made {
    std::unique_ptr<FakeAccelerator> owned;  ///< until the session takes it
    FakeAccelerator* fake = nullptr;
  };

  void equip(int rank, SessionParts& parts, std::uint64_t seed) {
    Made& made = made_[static_cast<std::size_t>(rank)];
    made.owned = std::make_unique<FakeAccelerator>(seed * 31 + static_cast<std::uint64_t>(rank));
    made.fake = made.owned.get();
    parts.make_accelerator = [&made](int) { return std::move(made.owned); };
    for (int host = 0; host < parts.topology.size; ++host) parts.host_of_rank.push_back(host);
    if (hosts_ != nullptr) hosts_->equip(rank, parts);
    parts.make_device_collectives = [this, &made](Accelerator& accelerator, const SessionParts& own,
                                                  const WaitContext& context) {
      const auto load = [&] {
        if (!load_nccl_) throw Error(StatusCode::unavailable, "there is no NCCL here");
        return load_nccl_(*made.fake);
      };
      return choose_device_collectives(
          {accelerator, *own.collectives, own.config,
           made.fake->bus_id() + std::to_string(own.topology.rank), own.host_of_rank, load},
          context);
    };
  }

  const LoadNccl load_nccl_;
  HostsWorld* const hosts_;
  std::vector<Made> made_;
  SessionWorld world_;
};

/// A tensor in an accelerator's memory, written and read in the order of a stream of its own.
class DeviceTensor {
 public:
  DeviceTensor(FakeAccelerator& accelerator, DataType dtype, Shape shape)
      : accelerator_(accelerator) {
    const auto entered = accelerator.enter();
    stream_ = accelerator.make_stream();
    view_ = {nullptr, dtype, std::move(shape), {DeviceKind::cuda, accelerator.index()}};
    view_.stream = stream_.get();
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(view_.bytes(), 1));
    memory_ = accelerator.allocate(bytes);
    staging_ = accelerator.allocate_pinned(bytes);
    view_.data = memory_.get();
  }
  ~DeviceTensor() {
    const auto entered = accelerator_.enter();
    accelerator_.synchronize();
    memory_.reset();
    staging_.reset();
    stream_.reset();
  }
  DeviceTensor(const DeviceTensor&) = delete;
  DeviceTensor& operator=(const DeviceTensor&) = delete;

  const TensorView& view() const { return view_; }
  StreamHandle stream() const { return stream_.get(); }

  /// Enqueued: the values are there when the stream comes to it.
  void write(std::span<const std::byte> bytes) {
    const auto entered = accelerator_.enter();
    accelerator_.synchronize();
    if (bytes.empty()) return;
    std::memcpy(staging_.get(), bytes.data(), bytes.size());
    accelerator_.copy(memory_.get(), staging_.get(), bytes.size(), stream_.get());
  }
  /// What the tensor holds behind the ticket.
  std::vector<std::byte> read(const Ticket& ticket) {
    ticket.make_wait(stream_.get());
    const auto entered = accelerator_.enter();
    std::vector<std::byte> bytes(static_cast<std::size_t>(view_.bytes()));
    if (bytes.empty()) return bytes;
    accelerator_.copy(staging_.get(), memory_.get(), bytes.size(), stream_.get());
    accelerator_.synchronize();
    std::memcpy(bytes.data(), staging_.get(), bytes.size());
    return bytes;
  }

 private:
  FakeAccelerator& accelerator_;
  TensorView view_;
  StreamOwner stream_;
  AcceleratorMemory memory_;
  AcceleratorMemory staging_;
};

}  // namespace scalecom::test
