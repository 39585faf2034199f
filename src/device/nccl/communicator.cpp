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

std::unique_ptr<Communicator> Communicator::create(std::shared_ptr<const Api> api,
                                                   const UniqueId& id, int rank, int size,
                                                   const WaitContext& context) {
  std::unique_ptr<Communicator> made(new Communicator(std::move(api), nullptr, rank, size));
  CommConfig config;
  const Result result = made->api_->comm_init_rank_config(&made->comm_, size, id, rank, &config);
  made->posting_ = {fmt::format("connecting {} ranks", size), context.deadline, result};
  made->wait(context);
  return made;
}

Communicator::~Communicator() { abort(); }

std::unique_ptr<Communicator> Communicator::split(const Part& part, Poster& poster,
                                                  const WaitContext& context) {
  ensure_usable();
  SCALECOM_ASSERT(poster_ == nullptr, "what is split off is not split again");
  if (!api_->comm_split) throw missing_split(*api_);
  constexpr int kNoColor = -1;
  const int color = part.color < 0 ? kNoColor : part.color;
  std::unique_ptr<Communicator> made(new Communicator(api_, &poster, part.rank, part.size));
  CommConfig config;
  config.blocking = 1;
  const Result result = api_->comm_split(comm_, color, part.rank, &made->comm_, &config);
  // The call itself is one of this communicator, which does not block. NCCL returns success while
  // this one is in progress, and gives the new one with the end of that.
  posting_ = {"splitting a communicator", context.deadline,
              has_failed(result) ? result : Result::in_progress};
  wait(context);
  if (made->comm_ == nullptr) return nullptr;
  made->posting_ = {"connecting a group of ranks", context.deadline, Result::in_progress};
  made->wait(context);
  return made;
}

void Communicator::all_reduce(const void* from, void* to, std::size_t count, DataType dtype,
                              ReduceOp op, StreamHandle stream, const WaitContext& context) {
  const ElementType type = element_type(dtype);
  post(
      [=, how = reduction(op)](const Api& api, CommHandle comm) {
        return api.all_reduce(from, to, count, type, how, comm, stream);
      },
      "all-reduce", context);
}

void Communicator::reduce_scatter(const void* from, void* to, std::size_t count, DataType dtype,
                                  ReduceOp op, StreamHandle stream, const WaitContext& context) {
  const ElementType type = element_type(dtype);
  post(
      [=, how = reduction(op)](const Api& api, CommHandle comm) {
        return api.reduce_scatter(from, to, count, type, how, comm, stream);
      },
      "reduce-scatter", context);
}

void Communicator::broadcast(const void* from, void* to, std::size_t bytes, int root,
                             StreamHandle stream, const WaitContext& context) {
  post(
      [=](const Api& api, CommHandle comm) {
        return api.broadcast(from, to, bytes, ElementType::uint8, root, comm, stream);
      },
      "broadcast", context);
}

void Communicator::all_gather(const void* from, void* to, std::size_t bytes, StreamHandle stream,
                              const WaitContext& context) {
  post(
      [=](const Api& api, CommHandle comm) {
        return api.all_gather(from, to, bytes, ElementType::uint8, comm, stream);
      },
      "all-gather", context);
}

void Communicator::all_gather_parts(const Parts& all, StreamHandle stream,
                                    const WaitContext& context) {
  const auto places = cut(all, size_);
  if (are_equal(all.bytes)) {
    return all_gather(places[static_cast<std::size_t>(rank_)].data(), all.data,
                      static_cast<std::size_t>(all.bytes.front()), stream, context);
  }
  std::vector<Call> calls;
  for (int root = 0; root < size_; ++root) {
    const std::span<std::byte> part = places[static_cast<std::size_t>(root)];
    if (part.empty()) continue;
    calls.push_back([=](const Api& api, CommHandle comm) {
      return api.broadcast(part.data(), part.data(), part.size(), ElementType::uint8, root, comm,
                           stream);
    });
  }
  post_group(std::move(calls), "all-gather", context);
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
  std::vector<Call> calls;
  for (int root = 0; root < size_; ++root) {
    const std::span<std::byte> part = places[static_cast<std::size_t>(root)];
    if (part.empty()) continue;
    calls.push_back([=, type = element_type(dtype), how = reduction(op)](const Api& api,
                                                                         CommHandle comm) {
      return api.reduce(part.data(), part.data(), count_of(part), type, how, root, comm, stream);
    });
  }
  post_group(std::move(calls), "reduce-scatter", context);
}

void Communicator::all_to_all(const Parts& from, const Parts& to, StreamHandle stream,
                              const WaitContext& context) {
  const auto sent = cut(from, size_);
  const auto received = cut(to, size_);
  std::vector<Call> calls;
  for (int peer = 0; peer < size_; ++peer) {
    const auto r = static_cast<std::size_t>(peer);
    if (!sent[r].empty()) {
      calls.push_back([=, part = sent[r]](const Api& api, CommHandle comm) {
        return api.send(part.data(), part.size(), ElementType::uint8, peer, comm, stream);
      });
    }
    if (!received[r].empty()) {
      calls.push_back([=, part = received[r]](const Api& api, CommHandle comm) {
        return api.receive(part.data(), part.size(), ElementType::uint8, peer, comm, stream);
      });
    }
  }
  post_group(std::move(calls), "all-to-all", context);
}

void Communicator::post(Call call, const std::string& what, const WaitContext& context) {
  ensure_usable();
  SCALECOM_ASSERT(is_posted(), what + " before what was begun earlier is posted");
  begin(std::move(call), what, context);
  advance();
}

void Communicator::begin(Call call, const std::string& what, const WaitContext& context) {
  posting_ = {what, context.deadline, std::nullopt};
  if (poster_ == nullptr) {
    posting_->result = call(*api_, comm_);
  } else {
    poster_->start([call = std::move(call), api = api_, comm = comm_] { return call(*api, comm); });
  }
}

bool Communicator::advance() {
  if (is_posted()) return false;
  try {
    if (!posting_->result) posting_->result = poster_->result();
    if (posting_->result == Result::in_progress) {
      Result state = Result::success;
      const Result asked = api_->comm_get_async_error(comm_, &state);
      posting_->result = asked == Result::success ? state : asked;
    }
    const Result result = posting_->result.value_or(Result::in_progress);
    if (has_failed(result)) throw error_of(*api_, result, comm_, posting_->what);
    if (result == Result::in_progress) {
      if (!posting_->deadline.has_passed()) return false;
      throw Error(StatusCode::timed_out,
                  fmt::format("NCCL: {}: the deadline has passed", posting_->what));
    }
  } catch (const Error& error) {
    fail(error);
  }
  posting_.reset();
  return true;
}

void Communicator::wait(const WaitContext& context) {
  WaitLoop loop(context);
  const std::string waits_for = posting_ ? "NCCL: " + posting_->what : "";
  while (!is_posted()) {
    if (advance()) return;
    try {
      loop.pause(waits_for);
    } catch (const Error& error) {
      fail(error);
    }
  }
}

// A group that was begun is ended in any case; the first failure is the cause.
void Communicator::post_group(std::vector<Call> calls, const std::string& what,
                              const WaitContext& context) {
  post(
      [calls = std::move(calls)](const Api& api, CommHandle comm) {
        Result first = api.group_start();
        for (const Call& call : calls) {
          if (has_failed(first)) break;
          first = call(api, comm);
        }
        const Result end = api.group_end();
        return has_failed(first) ? first : end;
      },
      what, context);
}

void Communicator::check() {
  ensure_usable();
  Result state = Result::success;
  const Result asked = api_->comm_get_async_error(comm_, &state);
  const Result result = asked == Result::success ? state : asked;
  if (has_failed(result)) fail(error_of(*api_, result, comm_, "a collective"));
}

void Communicator::close(const WaitContext& context) {
  const std::string what = "ending a communicator";
  post([](const Api& api, CommHandle comm) { return api.comm_finalize(comm); }, what, context);
  wait(context);
  // From here on it is not ours to abort, nor to ask.
  const Call destroy = [comm = std::exchange(comm_, nullptr)](const Api& api, CommHandle) {
    const Result result = api.comm_destroy(comm);
    return has_failed(result) ? result : Result::success;
  };
  begin(destroy, what, context);
  wait(context);
}

// A call that is under way has time to come back by itself, as an abort frees what it still looks
// at. One that does not is told to end first: in a group NCCL frees at the group's end, from 2.22
// on. It may have got as far as the stream: who gives back the memory of what was aborted does so
// behind what is in the stream.
void Communicator::abort() noexcept {
  const bool is_under_way = posting_ && !posting_->result;
  const bool is_back = !is_under_way || poster_->give_up();
  posting_.reset();
  if (comm_ == nullptr) return;
  if (!is_back) api_->group_start();
  api_->comm_abort(comm_);
  comm_ = nullptr;  // Not before: NCCL's thread that connects writes the handle at its end, too.
  if (!is_back) {
    poster_->give_up();
    api_->group_end();
  }
  if (!failure_) failure_ = Error(StatusCode::shut_down, "the communicator was aborted");
}

void Communicator::ensure_usable() const {
  if (failure_) throw *failure_;
  if (comm_ == nullptr) throw Error(StatusCode::shut_down, "the communicator was closed");
}

void Communicator::fail(const Error& error) {
  if (!failure_) failure_ = error;
  if (!is_aborted_by_caller_) abort();
  throw *failure_;
}

}  // namespace scalecom::device::nccl
