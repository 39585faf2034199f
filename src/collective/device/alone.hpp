#pragma once

#include <string>

#include "collective/device/device_collectives.hpp"

namespace scalecom {

/// Collectives of one rank: nothing travels.
class AloneCollectives final : public DeviceCollectives {
 public:
  explicit AloneCollectives(Accelerator& accelerator) : accelerator_(accelerator) {}

  std::string_view name() const noexcept override { return "none"; }
  std::string description() const override { return "one rank"; }
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  int host_size() const noexcept override { return 1; }

  void all_reduce(std::byte*, std::int64_t, DataType, ReduceOp, Span, StreamHandle,
                  const WaitContext&) override {}
  void all_gather(std::byte*, std::span<const std::int64_t>, StreamHandle,
                  const WaitContext&) override {}
  void broadcast(std::byte*, std::int64_t, int, StreamHandle, const WaitContext&) override {}
  void reduce_scatter(std::byte*, std::span<const std::int64_t>, DataType, ReduceOp, StreamHandle,
                      const WaitContext&) override {}
  void all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                  std::byte* receive, std::span<const std::int64_t>, StreamHandle stream,
                  const WaitContext&) override {
    const auto bytes = static_cast<std::size_t>(send_bytes[0]);
    if (bytes > 0) accelerator_.copy(receive, send, bytes, stream);
  }

  bool advance(const WaitContext&) override { return false; }
  bool is_posted() const noexcept override { return true; }
  void check() override {}
  void close(const WaitContext&) override {}
  void abort() noexcept override {}
  TransportCounters counters() const noexcept override { return {}; }

 private:
  Accelerator& accelerator_;
};

}  // namespace scalecom
