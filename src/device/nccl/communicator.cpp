#include "device/nccl/communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "device/nccl/error.hpp"

namespace scalecom::device::nccl {
namespace {

ElementType element_type(DataType dtype) {
  switch (dtype) {
    case DataType::uint8: return ElementType::uint8;
    case DataType::int8: return ElementType::int8;
    case DataType::int32: return ElementType::int32;
    case DataType::int64: return ElementType::int64;
    case DataType::float16: return ElementType::float16;
    case DataType::float32: return ElementType::float32;
    case DataType::float64: return ElementType::float64;
    case DataType::bfloat16: return ElementType::bfloat16;
    default:
      throw Error(StatusCode::invalid_argument,
                  fmt::format("NCCL does not reduce {}; cast it, or reduce it in host memory",
                              to_string(dtype)));
  }
}

Reduction reduction(ReduceOp op) {
  switch (op) {
    case ReduceOp::average: return Reduction::average;
    case ReduceOp::sum: return Reduction::sum;
    case ReduceOp::min: return Reduction::min;
    case ReduceOp::max: return Reduction::max;
    case ReduceOp::product: return Reduction::product;
    case ReduceOp::adasum: break;
  }
  throw Error(StatusCode::internal, fmt::format("op {}", static_cast<int>(op)));
}

// Between group_start() and group_end() nothing is in progress yet.
bool has_failed(Result result) {
  return result != Result::success && result != Result::in_progress;
}

bool are_equal(std::span<const std::int64_t> bytes) {
  return std::ranges::all_of(bytes, [&](std::int64_t b) { return b == bytes.front(); });
}

std::vector<std::span<std::byte>> cut(const Communicator::Parts& parts, int ranks) {
  SCALECOM_ASSERT(std::ssize(parts.bytes) == ranks,
                  fmt::format("{} parts for {} ranks", parts.bytes.size(), ranks));
  std::vector<std::span<std::byte>> places;
  std::byte* place = parts.data;
  for (const std::int64_t bytes : parts.bytes) {
    places.emplace_back(place, static_cast<std::size_t>(bytes));
    place += bytes;
  }
  return places;
}

}  // namespace

UniqueId make_unique_id(const Api& api) {
  UniqueId id;
  const Result result = api.get_unique_id(&id);
  if (result != Result::success) throw error_of(api, result, nullptr, "making a unique id");
  return id;
}

std::unique_ptr<Communicator> Communicator::create(const Api& api, const UniqueId& id, int rank,
                                                   int size, const WaitContext& context) {
  std::unique_ptr<Communicator> made(new Communicator(api, rank, size));
  CommConfig config;
  const Result result = api.comm_init_rank_config(&made->comm_, size, id, rank, &config);
  made->settle(result, fmt::format("connecting {} ranks", size), context);
  return made;
}

Communicator::~Communicator() { abort(); }

std::unique_ptr<Communicator> Communicator::split(const Part& part, const WaitContext& context) {
  ensure_usable();
  if (!api_.comm_split) {
    throw Error(StatusCode::unavailable,
                fmt::format("groups of ranks need NCCL 2.18 or newer, and {} is {}", api_.path,
                            version_text(api_.version)));
  }
  constexpr int kNoColor = -1;
  const int color = part.color < 0 ? kNoColor : part.color;
  std::unique_ptr<Communicator> made(new Communicator(api_, part.rank, part.size));
  CommConfig config;
  const Result result = api_.comm_split(comm_, color, part.rank, &made->comm_, &config);
  // NCCL returns success while this one is in progress, and gives the new one with the end of that.
  settle(has_failed(result) ? result : Result::in_progress, "splitting a communicator", context);
  if (made->comm_ == nullptr) return nullptr;
  made->settle(Result::in_progress, "connecting a group of ranks", context);
  return made;
}

void Communicator::all_reduce(const void* from, void* to, std::size_t count, DataType dtype,
                              ReduceOp op, StreamHandle stream, const WaitContext& context) {
  ensure_usable();
  const Result result =
      api_.all_reduce(from, to, count, element_type(dtype), reduction(op), comm_, stream);
  settle(result, "all-reduce", context);
}

void Communicator::reduce_scatter(const void* from, void* to, std::size_t count, DataType dtype,
                                  ReduceOp op, StreamHandle stream, const WaitContext& context) {
  ensure_usable();
  const Result result =
      api_.reduce_scatter(from, to, count, element_type(dtype), reduction(op), comm_, stream);
  settle(result, "reduce-scatter", context);
}

void Communicator::broadcast(const void* from, void* to, std::size_t bytes, int root,
                             StreamHandle stream, const WaitContext& context) {
  ensure_usable();
  const Result result = api_.broadcast(from, to, bytes, ElementType::uint8, root, comm_, stream);
  settle(result, "broadcast", context);
}

void Communicator::all_gather(const void* from, void* to, std::size_t bytes, StreamHandle stream,
                              const WaitContext& context) {
  ensure_usable();
  const Result result = api_.all_gather(from, to, bytes, ElementType::uint8, comm_, stream);
  settle(result, "all-gather", context);
}

void Communicator::all_gather_parts(const Parts& all, StreamHandle stream,
                                    const WaitContext& context) {
  const auto places = cut(all, size_);
  if (are_equal(all.bytes)) {
    return all_gather(places[static_cast<std::size_t>(rank_)].data(), all.data,
                      static_cast<std::size_t>(all.bytes.front()), stream, context);
  }
  Calls calls;
  for (int root = 0; root < size_; ++root) {
    const std::span<std::byte> part = places[static_cast<std::size_t>(root)];
    if (part.empty()) continue;
    calls.push_back([=, this] {
      return api_.broadcast(part.data(), part.data(), part.size(), ElementType::uint8, root, comm_,
                            stream);
    });
  }
  run_group(calls, "all-gather", context);
}

void Communicator::reduce_scatter_parts(const Parts& all, DataType dtype, ReduceOp op,
                                        StreamHandle stream, const WaitContext& context) {
  const auto places = cut(all, size_);
  const auto count_of = [dtype](std::span<std::byte> part) {
    return part.size() / static_cast<std::size_t>(size_of(dtype));
  };
  if (are_equal(all.bytes)) {
    const std::span<std::byte> mine = places[static_cast<std::size_t>(rank_)];
    return reduce_scatter(all.data, mine.data(), count_of(mine), dtype, op, stream, context);
  }
  Calls calls;
  for (int root = 0; root < size_; ++root) {
    const std::span<std::byte> part = places[static_cast<std::size_t>(root)];
    if (part.empty()) continue;
    calls.push_back([=, this, type = element_type(dtype), reduction = reduction(op)] {
      return api_.reduce(part.data(), part.data(), count_of(part), type, reduction, root, comm_,
                         stream);
    });
  }
  run_group(calls, "reduce-scatter", context);
}

void Communicator::all_to_all(const Parts& from, const Parts& to, StreamHandle stream,
                              const WaitContext& context) {
  const auto sent = cut(from, size_);
  const auto received = cut(to, size_);
  Calls calls;
  for (int peer = 0; peer < size_; ++peer) {
    const auto r = static_cast<std::size_t>(peer);
    if (!sent[r].empty()) {
      calls.push_back([=, this, part = sent[r]] {
        return api_.send(part.data(), part.size(), ElementType::uint8, peer, comm_, stream);
      });
    }
    if (!received[r].empty()) {
      calls.push_back([=, this, part = received[r]] {
        return api_.receive(part.data(), part.size(), ElementType::uint8, peer, comm_, stream);
      });
    }
  }
  run_group(calls, "all-to-all", context);
}

// A group that was begun is ended in any case; the first failure is the cause.
void Communicator::run_group(const Calls& calls, const std::string& what,
                             const WaitContext& context) {
  ensure_usable();
  Result first = api_.group_start();
  for (const auto& call : calls) {
    if (has_failed(first)) break;
    first = call();
  }
  const Result end = api_.group_end();
  settle(has_failed(first) ? first : end, what, context);
}

void Communicator::check() {
  ensure_usable();
  Result state = Result::success;
  const Result asked = api_.comm_get_async_error(comm_, &state);
  const Result result = asked == Result::success ? state : asked;
  if (has_failed(result)) fail(error_of(api_, result, comm_, "a collective"));
}

void Communicator::close(const WaitContext& context) {
  ensure_usable();
  settle(api_.comm_finalize(comm_), "ending a communicator", context);
  const Result result = api_.comm_destroy(std::exchange(comm_, nullptr));
  if (has_failed(result)) fail(error_of(api_, result, nullptr, "ending a communicator"));
}

void Communicator::abort() noexcept {
  if (comm_ == nullptr) return;
  api_.comm_abort(std::exchange(comm_, nullptr));
  if (!failure_) failure_ = Error(StatusCode::shut_down, "the communicator was aborted");
}

void Communicator::ensure_usable() const {
  if (failure_) throw *failure_;
  if (comm_ == nullptr) throw Error(StatusCode::shut_down, "the communicator was closed");
}

void Communicator::settle(Result result, const std::string& what, const WaitContext& context) {
  WaitLoop loop(context);
  const std::string waits_for = "NCCL: " + what;
  while (result == Result::in_progress) {
    const Result asked = api_.comm_get_async_error(comm_, &result);
    if (asked != Result::success) result = asked;
    if (result != Result::in_progress) break;
    try {
      loop.pause(waits_for);
    } catch (const Error& error) {
      fail(error);
    }
  }
  if (result != Result::success) fail(error_of(api_, result, comm_, what));
}

void Communicator::fail(const Error& error) {
  if (!failure_) failure_ = error;
  abort();
  throw *failure_;
}

}  // namespace scalecom::device::nccl
