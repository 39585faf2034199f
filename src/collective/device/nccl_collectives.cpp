#include "collective/device/nccl_collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "device/nccl/error.hpp"

namespace scalecom {
namespace {

using device::nccl::Communicator;
using device::nccl::UniqueId;

// Rank 0's; where it cannot make one, all ranks are told.
UniqueId share_unique_id(const device::nccl::Api& api, Collectives& host,
                         const WaitContext& context) {
  struct Shared {
    UniqueId id;
    bool is_made = false;
  } shared;
  std::optional<Error> failure;
  if (host.rank() == 0) {
    try {
      shared = {device::nccl::make_unique_id(api), true};
    } catch (const Error& error) {
      failure = error;
    }
  }
  host.broadcast(std::as_writable_bytes(std::span(&shared, 1)), 0, context);
  if (failure) throw *failure;
  if (!shared.is_made) {
    throw Error(StatusCode::unavailable,
                "rank 0 could not make NCCL's unique id: look at its own message");
  }
  return shared.id;
}

// Before a split was a part of it, a communicator's name was its parent's and the color: two splits
// of one parent want different colors.
constexpr int kColorOfAll = 0;
constexpr int kColorOfFirstHost = 1;

// This rank's place among those of its host.
Communicator::Part part_inside_host(const std::vector<int>& host_of_rank, int rank) {
  const int host = host_of_rank[static_cast<std::size_t>(rank)];
  return {
      .color = kColorOfFirstHost + host,
      .rank = static_cast<int>(std::count(host_of_rank.begin(), host_of_rank.begin() + rank, host)),
      .size = static_cast<int>(std::count(host_of_rank.begin(), host_of_rank.end(), host))};
}

// Several hosts, with several ranks on some.
bool are_several_on_hosts(std::vector<int> host_of_rank) {
  std::ranges::sort(host_of_rank);
  return host_of_rank.front() != host_of_rank.back() &&
         std::ranges::adjacent_find(host_of_rank) != host_of_rank.end();
}

// How NCCL takes what it has no type for; int16 it does not take at all.
struct Reduced {
  DataType dtype;
  ReduceOp op;
};
Reduced as_nccl(DataType dtype, ReduceOp op) {
  if (dtype != DataType::boolean) return {dtype, op};
  const bool is_or = op == ReduceOp::sum || op == ReduceOp::max;
  return {DataType::uint8, is_or ? ReduceOp::max : ReduceOp::min};
}

std::int64_t sum(const std::vector<std::int64_t>& bytes) {
  return std::reduce(bytes.begin(), bytes.end());
}

std::vector<std::int64_t> copy_of(std::span<const std::int64_t> bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

template <class Body>
auto NcclCollectives::guarded(const Body& body) {
  ensure_usable();
  try {
    return body();
  } catch (const Error& error) {
    failure_ = error;
    abort();
    throw;
  }
}

NcclCollectives::NcclCollectives(Needs needs)
    : needs_(std::move(needs)),
      host_part_(part_inside_host(needs_.host_of_rank, needs_.host.rank())),
      staged_(needs_.accelerator, needs_.host, static_cast<int>(needs_.host_of_rank.size())) {
  SCALECOM_ASSERT(host_part_.size == needs_.host.host_size(),
                  fmt::format("{} ranks of this host, {} for its collectives", host_part_.size,
                              needs_.host.host_size()));
  SCALECOM_ASSERT(needs_.api != nullptr && (!needs_.api->comm_split || needs_.poster != nullptr),
                  "no NCCL");
}

std::unique_ptr<NcclCollectives> NcclCollectives::create(Needs needs, const WaitContext& context) {
  std::unique_ptr<NcclCollectives> made(new NcclCollectives(std::move(needs)));
  const UniqueId id = share_unique_id(*made->needs_.api, made->needs_.host, context);
  const auto entered = made->needs_.accelerator.enter();
  made->connect(id, context);
  return made;
}

// Connected without blocking, so that ranks which do not come hold nobody up for ever, and then
// split off with it.
void NcclCollectives::connect(const UniqueId& id, const WaitContext& context) {
  const device::nccl::TunedCommunicators tuned(needs_.algorithm);
  everyone_ = Communicator::create(needs_.api, id, rank(), size(), context);
  if (needs_.api->comm_split) {
    const auto whole = std::exchange(
        everyone_, everyone_->split({kColorOfAll, rank(), size()}, *needs_.poster, context));
    if (are_several_on_hosts(needs_.host_of_rank)) {
      inside_ = whole->split(host_part_, *needs_.poster, context);
      everyone_->leave_abort_to_caller();
      inside_->leave_abort_to_caller();
    }
    whole->close(context);
  }
  const bool is_wanted = needs_.algorithm != device::nccl::AllReduceAlgorithm::own_choice;
  if (is_wanted && !tuned.has_been_asked() && rank() == 0) {
    log_warning(fmt::format(
        "NCCL {} chooses its algorithms by itself, whatever SCALECOM_ALLREDUCE_ALGORITHM is: it "
        "asks a plugin from 2.24 on, by NCCL_TUNER_PLUGIN, which must not name another one, and "
        "only where no communicator of this process was made before scalecom.init()",
        device::nccl::version_text(needs_.api->version)));
  }
}

std::string NcclCollectives::description() const {
  return fmt::format("NCCL {} ({})", device::nccl::version_text(needs_.api->version),
                     needs_.api->path);
}

NcclCollectives::Communicator& NcclCollectives::communicator_of(Span span) {
  if (span == Span::all || host_part_.size == size()) return *everyone_;
  if (inside_ == nullptr) throw device::nccl::missing_split(*needs_.api);
  return *inside_;
}

void NcclCollectives::all_reduce(std::byte* data, std::int64_t count, DataType dtype, ReduceOp op,
                                 Span span, StreamHandle stream, const WaitContext& context) {
  start(
      [=, this](const WaitContext& now) {
        if (dtype == DataType::int16) {
          return staged_.all_reduce(data, count, dtype, op, span, stream, now);
        }
        if (count == 0 || (span == Span::host && host_part_.size == 1)) return;
        Communicator& communicator = communicator_of(span);
        const Reduced reduced = as_nccl(dtype, op);
        communicator.all_reduce(data, data, static_cast<std::size_t>(count), reduced.dtype,
                                reduced.op, stream, now);
        this->count(count * size_of(dtype));
      },
      context);
}

void NcclCollectives::all_gather(std::byte* all, std::span<const std::int64_t> bytes_per_rank,
                                 StreamHandle stream, const WaitContext& context) {
  start(
      [=, this, bytes = copy_of(bytes_per_rank)](const WaitContext& now) {
        if (sum(bytes) == 0) return;
        everyone_->all_gather_parts({all, bytes}, stream, now);
        count(bytes[static_cast<std::size_t>(rank())]);
      },
      context);
}

void NcclCollectives::broadcast(std::byte* data, std::int64_t bytes, int root, StreamHandle stream,
                                const WaitContext& context) {
  start(
      [=, this](const WaitContext& now) {
        if (bytes == 0) return;
        everyone_->broadcast(data, data, static_cast<std::size_t>(bytes), root, stream, now);
        count(rank() == root ? bytes : 0);
      },
      context);
}

void NcclCollectives::reduce_scatter(std::byte* data, std::span<const std::int64_t> bytes_per_rank,
                                     DataType dtype, ReduceOp op, StreamHandle stream,
                                     const WaitContext& context) {
  start(
      [=, this, bytes = copy_of(bytes_per_rank)](const WaitContext& now) {
        if (dtype == DataType::int16) {
          return staged_.reduce_scatter(data, bytes, dtype, op, stream, now);
        }
        if (sum(bytes) == 0) return;
        const Reduced reduced = as_nccl(dtype, op);
        everyone_->reduce_scatter_parts({data, bytes}, reduced.dtype, reduced.op, stream, now);
        count(sum(bytes) - bytes[static_cast<std::size_t>(rank())]);
      },
      context);
}

void NcclCollectives::all_to_all(const std::byte* send, std::span<const std::int64_t> send_bytes,
                                 std::byte* receive, std::span<const std::int64_t> receive_bytes,
                                 StreamHandle stream, const WaitContext& context) {
  start(
      [=, this, sent = copy_of(send_bytes),
       received = copy_of(receive_bytes)](const WaitContext& now) {
        // It only reads what it sends.
        everyone_->all_to_all({const_cast<std::byte*>(send), sent}, {receive, received}, stream,
                              now);
        count(sum(sent) - sent[static_cast<std::size_t>(rank())]);
      },
      context);
}

void NcclCollectives::start(Post post, const WaitContext& context) {
  guarded([&] {
    waiting_.push_back(std::move(post));
    post_waiting(context);
  });
}

bool NcclCollectives::has_posted_begun() const noexcept {
  return staged_.is_posted() && everyone_->is_posted() &&
         (inside_ == nullptr || inside_->is_posted());
}

bool NcclCollectives::post_waiting(const WaitContext& context) {
  if (waiting_.empty() || !has_posted_begun()) return false;
  const auto entered = needs_.accelerator.enter();
  while (!waiting_.empty() && has_posted_begun()) {
    const Post post = std::move(waiting_.front());
    waiting_.pop_front();
    post(context);
  }
  return true;
}

bool NcclCollectives::advance(const WaitContext& context) {
  return guarded([&] {
    bool has_moved = staged_.advance(context);
    has_moved = everyone_->advance() || has_moved;
    if (inside_ != nullptr) has_moved = inside_->advance() || has_moved;
    return post_waiting(context) || has_moved;
  });
}

void NcclCollectives::check() {
  guarded([&] {
    staged_.check();
    everyone_->check();
    if (inside_ != nullptr) inside_->check();
  });
}

void NcclCollectives::close(const WaitContext& context) {
  guarded([&] {
    staged_.close(context);
    const auto entered = needs_.accelerator.enter();
    if (inside_ != nullptr) inside_->close(context);
    everyone_->close(context);
  });
}

void NcclCollectives::abort() noexcept {
  if (!failure_) failure_ = Error(StatusCode::shut_down, "the collectives were aborted");
  waiting_.clear();
  staged_.abort();
  // In a group both are told to end, from NCCL 2.22 on, before either is waited for.
  const bool are_two = inside_ != nullptr && everyone_ != nullptr;
  if (are_two) needs_.api->group_start();
  if (inside_ != nullptr) inside_->abort();
  if (everyone_ != nullptr) everyone_->abort();
  if (are_two) needs_.api->group_end();
}

void NcclCollectives::count(std::int64_t bytes) {
  if (bytes == 0) return;
  counters_.bytes_sent += bytes;
  ++counters_.messages_sent;
}

void NcclCollectives::ensure_usable() const {
  if (failure_) throw *failure_;
}

}  // namespace scalecom
