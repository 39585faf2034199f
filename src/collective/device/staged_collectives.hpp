#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "collective/collectives.hpp"
#include "collective/device/device_collectives.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

/// Collectives on an accelerator's memory by way of the host's: copied to pinned memory, taken
/// through them, copied back.
///
/// An operation goes in *turns*, each with a *block* of pinned memory: copies in, the host's
/// operation, copies out. Turns overlap as far as there are blocks, and start on the host strictly
/// in their order, whatever the devices do: the same on all ranks. A block holds
/// Options::block_bytes, or a slice of kSliceBytesMin for each rank where that is more (an
/// all-to-all's twice that), so pinned memory is bounded; larger tensors take more turns. Where
/// there is not as much of it, turns go on with the blocks that there are.
///
/// All-reduces and all-gathers go on in the background of the host's collectives. The others wait
/// until nothing is under way there, and then for other ranks, in advance(). While this is not
/// posted, nobody else starts anything there.
///
/// Operations on memory that another one writes start once that one is posted. Before this object
/// goes, nothing of it may be under way in the host's collectives.
class StagedCollectives final : public DeviceCollectives {
 public:
  static constexpr std::size_t kSliceBytesMin = 4096;

  struct Options {
    std::size_t block_bytes = 1 << 20;  ///< a multiple of 8
    std::size_t blocks_max = 6;
    std::string reason = {};  ///< for people: why this one was taken
  };

  /// Both outlive this object. `size` ranks are those of `host`.
  StagedCollectives(Accelerator& accelerator, Collectives& host, int size, Options options);
  StagedCollectives(Accelerator& accelerator, Collectives& host, int size)
      : StagedCollectives(accelerator, host, size, Options{}) {}

  std::string_view name() const noexcept override { return "host"; }
  std::string description() const override;
  int rank() const noexcept override { return host_.rank(); }
  int size() const noexcept override { return size_; }
  int host_size() const noexcept override { return host_.host_size(); }

  void all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op, Span span,
                  StreamHandle stream, const WaitContext& context) override;
  void all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank, StreamHandle stream,
                  const WaitContext& context) override;
  void broadcast(std::byte* data, std::int64_t bytes, int root, StreamHandle stream,
                 const WaitContext& context) override;
  void reduce_scatter(std::byte* data, std::span<const std::int64_t> bytes_per_rank, DataType dtype,
                      ReduceOp op, StreamHandle stream, const WaitContext& context) override;
  /// The ranks agree on the number of turns before, by an all-reduce of 8 bytes.
  void all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                  std::byte* receive, std::span<const std::int64_t> receive_bytes,
                  StreamHandle stream, const WaitContext& context) override;

  bool advance(const WaitContext& context) override;
  bool is_posted() const noexcept override { return operations_.empty(); }
  void check() override { ensure_usable(); }
  void close(const WaitContext& context) override;
  void abort() noexcept override;
  /// Nothing of its own: the host's collectives count it.
  TransportCounters counters() const noexcept override { return {}; }

 private:
  /// Between the device and a place in a block.
  struct Copy {
    std::byte* device = nullptr;
    std::size_t place = 0;
    std::size_t bytes = 0;
  };
  struct Turn {
    std::size_t bytes = 0;  ///< of the block
    std::vector<Copy> in;
    std::vector<Copy> out;
    /// Requires that nothing is under way on the host, and is over on return.
    bool is_alone = false;
    /// Starts it on the host; returns its number there, unless it is alone.
    std::function<std::uint64_t(std::span<std::byte> block, const WaitContext& context)> run;
  };
  struct Operation {
    StreamHandle stream = nullptr;
    /// Absent: the first turn will tell.
    std::optional<std::int64_t> turns;
    std::function<Turn(std::int64_t index)> make_turn;
    EventOwner begin;
    std::int64_t begun = 0;
    std::int64_t finished = 0;
    bool has_copied_out = false;
  };
  struct Block {
    AcceleratorMemory memory;
    std::size_t capacity = 0;
    std::vector<AcceleratorMemory> former = {};  ///< smaller ones before it
    EventOwner copied_in;
    EventOwner copied_out;
    bool is_idle = true;
  };
  struct TurnUnderWay {
    Operation& operation;
    Turn turn;
    Block& block;
    bool is_on_host = false;
    std::uint64_t host_operation = 0;
  };
  /// A slice of each rank's part.
  struct Slices {
    std::vector<Copy> copies;
    std::vector<std::int64_t> bytes;
    std::size_t end = 0;  ///< in the block
  };

  std::int64_t turns_for(std::span<const std::int64_t> parts) const;
  Slices cut_slices(std::byte* data, std::span<const std::int64_t> parts, std::int64_t turn,
                    std::size_t first_place) const;
  void start(StreamHandle stream, std::optional<std::int64_t> turns,
             std::function<Turn(std::int64_t)> make_turn);
  Operation* next_to_begin();
  Block* find_idle_block();
  Block* add_block();
  bool begin_turns();
  bool start_on_host(const WaitContext& context);
  bool finish_turns();
  void post_finished();
  void ensure_usable() const;
  template <class Body>
  auto guarded(const Body& body);

  Accelerator& accelerator_;
  Collectives& host_;
  const int size_;
  const Options options_;
  std::size_t blocks_max_;  ///< fewer than the option where there is no memory for as many
  const std::size_t slice_bytes_;
  StreamOwner in_;
  StreamOwner out_;
  EventOwner posted_;
  std::vector<EventOwner> idle_events_;
  std::vector<std::unique_ptr<Block>> blocks_;
  /// Oldest first, until they are posted.
  std::deque<Operation> operations_;
  std::deque<TurnUnderWay> turns_;
  std::optional<Error> failure_;
};

}  // namespace scalecom
