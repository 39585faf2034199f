#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/nccl/api.hpp"
#include "tests/support/fake_accelerator.hpp"
#include "tests/unit/collective/reduction_inputs.hpp"

namespace scalecom::test {

/// NCCL for ranks that are threads, or one, with fake accelerators: calls enqueue on the rank's
/// stream what waits there for the other ranks' and then does what NCCL would, in rank order.
class NcclWorld {
 public:
  /// The functions of one rank. Both outlive them.
  device::nccl::Api make_api(FakeAccelerator& accelerator);
  /// For ranks in one thread: what each waits for until NcclCollectives is connected is there.
  void expect(const std::vector<int>& host_of_rank);

  /// Operations of this rank that were aborted before they had results.
  int skipped(const FakeAccelerator& accelerator) {
    const std::lock_guard lock(mutex_);
    return skipped_[&accelerator];
  }

  /// How each communicator of each rank has ended: "all of rank 0: finalize destroy".
  std::vector<std::string> ends() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> texts;
    for (const auto& comm : comms_) {
      texts.push_back(fmt::format("{} of rank {}:{}", comm->name, comm->rank, comm->ends));
    }
    return texts;
  }

  /// What `comm` is to answer from now on when it is asked how it is.
  void fail(device::nccl::Result result) {
    const std::lock_guard lock(mutex_);
    failure_ = result;
  }

 private:
  struct Comm {
    std::string name;
    int rank = 0;
    int size = 0;
    std::uint64_t calls = 0;
    std::map<int, std::uint64_t> sent = {};
    std::map<int, std::uint64_t> received = {};
    std::function<bool()> connect = {};  ///< until it is true the communicator is in progress
    bool is_aborted = false;             ///< then what is enqueued ends as it is
    /// In whose streams its kernels are.
    std::multiset<std::pair<const FakeAccelerator*, StreamHandle>> queued = {};
    std::string ends = {};
  };
  using Keys = std::vector<std::string>;

  static Comm& comm_of(device::nccl::CommHandle handle) { return *reinterpret_cast<Comm*>(handle); }
  device::nccl::CommHandle add(Comm comm);
  void put(const std::string& key, Bytes value);
  std::optional<std::vector<Bytes>> take(const Keys& keys);
  void add_reductions(device::nccl::Api& api, FakeAccelerator& accelerator);
  void add_movements(device::nccl::Api& api, FakeAccelerator& accelerator);
  device::nccl::Result split(Comm& parent, int color, int key, device::nccl::CommHandle* made);

  /// One call, as this rank's stream carries it out.
  struct Call {
    std::optional<std::string> key;  ///< of what this rank gives; absent: nothing
    const void* from = nullptr;
    std::size_t bytes_from = 0;
    Keys needs;
    void* to = nullptr;
    std::size_t bytes_to = 0;
    std::function<Bytes(const std::vector<Bytes>&)> combine;  ///< what it needs, to the result
  };
  device::nccl::Result enqueue(FakeAccelerator& accelerator, Comm& comm, StreamHandle stream,
                               Call call);
  /// Of one rank's thread.
  struct Group {
    int depth = 0;
    std::vector<const Comm*> aborted = {};
  };
  void wait_for_aborted(FakeAccelerator& accelerator, Group& group);
  bool run(FakeAccelerator& accelerator, const Comm& comm, const Call& call, bool& has_given);
  bool skip_if_aborted(const FakeAccelerator& accelerator, const Comm& comm) {
    const std::lock_guard lock(mutex_);
    if (comm.is_aborted) ++skipped_[&accelerator];
    return comm.is_aborted;
  }
  static Keys keys_of(const Comm& comm, std::uint64_t call);

  std::mutex mutex_;
  std::map<std::string, Bytes> mail_;
  std::vector<std::unique_ptr<Comm>> comms_;
  std::map<const FakeAccelerator*, int> skipped_;
  device::nccl::Result failure_ = device::nccl::Result::success;
};

inline device::nccl::CommHandle NcclWorld::add(Comm comm) {
  const std::lock_guard lock(mutex_);
  comms_.push_back(std::make_unique<Comm>(std::move(comm)));
  return reinterpret_cast<device::nccl::CommHandle>(comms_.back().get());
}

inline void NcclWorld::put(const std::string& key, Bytes value) {
  const std::lock_guard lock(mutex_);
  mail_.emplace(key, std::move(value));
}

inline std::optional<std::vector<Bytes>> NcclWorld::take(const Keys& keys) {
  const std::lock_guard lock(mutex_);
  std::vector<Bytes> found;
  for (const std::string& key : keys) {
    const auto at = mail_.find(key);
    if (at == mail_.end()) return std::nullopt;
    found.push_back(at->second);
  }
  return found;
}

inline NcclWorld::Keys NcclWorld::keys_of(const Comm& comm, std::uint64_t call) {
  Keys keys;
  for (int r = 0; r < comm.size; ++r) keys.push_back(fmt::format("{} {} {}", comm.name, call, r));
  return keys;
}

inline bool NcclWorld::run(FakeAccelerator& accelerator, const Comm& comm, const Call& call,
                           bool& has_given) {
  if (skip_if_aborted(accelerator, comm)) {
    // Whatever: no offset beyond its chunk.
    if (call.to != nullptr) std::memset(call.to, 0, call.bytes_to);
    return true;
  }
  if (call.key && !has_given) {
    const auto* from = static_cast<const std::byte*>(call.from);
    put(*call.key, Bytes(from, from + call.bytes_from));
    has_given = true;
  }
  const auto found = take(call.needs);
  if (!found) return false;
  const std::size_t bytes_each = call.bytes_from > 0 ? call.bytes_from : call.bytes_to;
  for (const Bytes& one : *found) {
    const bool is_same = one.size() == bytes_each;
    accelerator.require(is_same, fmt::format("NCCL: {} bytes meet {}", bytes_each, one.size()));
    if (!is_same) return true;
  }
  if (call.to == nullptr) return true;
  const Bytes result = call.combine(*found);
  std::copy(result.begin(), result.end(), static_cast<std::byte*>(call.to));
  return true;
}

inline device::nccl::Result NcclWorld::enqueue(FakeAccelerator& accelerator, Comm& comm,
                                               StreamHandle stream, Call call) {
  const std::vector<MemoryUse> uses{{call.from, call.bytes_from}, {call.to, call.bytes_to}};
  {
    const std::lock_guard lock(mutex_);
    comm.queued.emplace(&accelerator, stream);
  }
  accelerator.enqueue(stream, {"nccl", uses, false,
                               [this, &accelerator, &comm, stream, call = std::move(call),
                                has_given = false]() mutable {
                                 if (!run(accelerator, comm, call, has_given)) return false;
                                 const std::lock_guard lock(mutex_);
                                 comm.queued.erase(comm.queued.find({&accelerator, stream}));
                                 return true;
                               }});
  return device::nccl::Result::success;
}

// An abort waits for its own kernels, which may be behind another communicator's in their stream.
inline void NcclWorld::wait_for_aborted(FakeAccelerator& accelerator, Group& group) {
  const std::lock_guard lock(mutex_);
  for (const Comm* aborted : std::exchange(group.aborted, {})) {
    for (const auto& other : comms_) {
      const bool is_held_up =
          !other->is_aborted && std::ranges::any_of(other->queued, [&](const auto& place) {
            return aborted->queued.contains(place);
          });
      accelerator.require(!is_held_up,
                          fmt::format("NCCL: the abort of {} may wait for {}, which is not aborted",
                                      aborted->name, other->name));
    }
  }
}

inline DataType dtype_of(device::nccl::ElementType type) {
  using device::nccl::ElementType;
  static const std::map<ElementType, DataType> types{
      {ElementType::int8, DataType::int8},       {ElementType::uint8, DataType::uint8},
      {ElementType::int32, DataType::int32},     {ElementType::int64, DataType::int64},
      {ElementType::float16, DataType::float16}, {ElementType::float32, DataType::float32},
      {ElementType::float64, DataType::float64}, {ElementType::bfloat16, DataType::bfloat16}};
  return types.at(type);
}

inline Bytes combine_all(const std::vector<Bytes>& inputs, DataType dtype,
                         device::nccl::Reduction reduction) {
  constexpr std::array ops{ReduceOp::sum, ReduceOp::product, ReduceOp::max, ReduceOp::min};
  Bytes result = inputs.front();
  for (std::size_t r = 1; r < inputs.size(); ++r) {
    kernels::reduce(result.data(), result.data(), inputs[r].data(),
                    std::ssize(result) / size_of(dtype), dtype,
                    ops[static_cast<std::size_t>(reduction)]);
  }
  return result;
}

inline device::nccl::Result NcclWorld::split(Comm& parent, int color, int key,
                                             device::nccl::CommHandle* made) {
  const std::string call = fmt::format("{} split {}", parent.name, parent.calls++);
  const auto place = [call](int rank) { return fmt::format("{} {}", call, rank); };
  put(place(parent.rank), Bytes(1, static_cast<std::byte>(color)));
  // As NCCL did before 2.23 or so: two splits of one color meet each other's messages.
  const device::nccl::CommHandle handle =
      add({.name = fmt::format("{} {}", parent.name, color), .rank = key});
  Comm& part = comm_of(handle);
  *made = nullptr;
  Keys everyone;
  for (int r = 0; r < parent.size; ++r) everyone.push_back(place(r));
  // Given when it is connected; until then the call has succeeded and the parent is in progress.
  parent.connect = [this, everyone, &part, color, handle, made] {
    const auto colors = take(everyone);
    if (!colors) return false;
    *made = handle;
    part.size = static_cast<int>(
        std::count(colors->begin(), colors->end(), Bytes(1, static_cast<std::byte>(color))));
    return true;
  };
  return device::nccl::Result::success;
}

inline std::size_t bytes_of(std::size_t count, device::nccl::ElementType type) {
  return count * static_cast<std::size_t>(size_of(dtype_of(type)));
}

inline void NcclWorld::add_reductions(device::nccl::Api& api, FakeAccelerator& accelerator) {
  using namespace device::nccl;
  api.all_reduce = [=, this, &accelerator](const void* from, void* to, std::size_t count,
                                           ElementType type, device::nccl::Reduction op,
                                           CommHandle handle, StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const Keys keys = keys_of(comm, comm.calls++);
    const std::size_t bytes = bytes_of(count, type);
    return enqueue(accelerator, comm, stream,
                   {keys[static_cast<std::size_t>(comm.rank)], from, bytes, keys, to, bytes,
                    [=](const auto& all) { return combine_all(all, dtype_of(type), op); }});
  };
  api.reduce_scatter = [=, this, &accelerator](const void* from, void* to, std::size_t count,
                                               ElementType type, device::nccl::Reduction op,
                                               CommHandle handle, StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const Keys keys = keys_of(comm, comm.calls++);
    const auto rank = static_cast<std::size_t>(comm.rank);
    const std::size_t part = bytes_of(count, type);
    return enqueue(accelerator, comm, stream,
                   {keys[rank], from, part * keys.size(), keys, to, part, [=](const auto& all) {
                      const Bytes whole = combine_all(all, dtype_of(type), op);
                      const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(rank * part);
                      return Bytes(begin, begin + static_cast<std::ptrdiff_t>(part));
                    }});
  };
  api.reduce = [=, this, &accelerator](const void* from, void* to, std::size_t count,
                                       ElementType type, device::nccl::Reduction op, int root,
                                       CommHandle handle, StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const Keys keys = keys_of(comm, comm.calls++);
    const bool is_root = comm.rank == root;
    const std::size_t bytes = bytes_of(count, type);
    return enqueue(accelerator, comm, stream,
                   {keys[static_cast<std::size_t>(comm.rank)], from, bytes, is_root ? keys : Keys{},
                    is_root ? to : nullptr, is_root ? bytes : 0,
                    [=](const auto& all) { return combine_all(all, dtype_of(type), op); }});
  };
}

inline void NcclWorld::add_movements(device::nccl::Api& api, FakeAccelerator& accelerator) {
  using namespace device::nccl;
  api.broadcast = [=, this, &accelerator](const void* from, void* to, std::size_t count,
                                          ElementType type, int root, CommHandle handle,
                                          StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const std::string key = keys_of(comm, comm.calls++)[static_cast<std::size_t>(root)];
    const bool is_root = comm.rank == root;
    const std::size_t bytes = bytes_of(count, type);
    return enqueue(accelerator, comm, stream,
                   {is_root ? std::optional(key) : std::nullopt,
                    from,
                    is_root ? bytes : 0,
                    {key},
                    to,
                    bytes,
                    [](const auto& all) { return all.front(); }});
  };
  api.all_gather = [=, this, &accelerator](const void* from, void* to, std::size_t count,
                                           ElementType type, CommHandle handle,
                                           StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const Keys keys = keys_of(comm, comm.calls++);
    const std::size_t bytes = bytes_of(count, type);
    return enqueue(accelerator, comm, stream,
                   {keys[static_cast<std::size_t>(comm.rank)], from, bytes, keys, to,
                    bytes * static_cast<std::size_t>(comm.size), [](const auto& all) {
                      Bytes joined;
                      for (const Bytes& part : all) {
                        joined.insert(joined.end(), part.begin(), part.end());
                      }
                      return joined;
                    }});
  };
  api.send = [=, this, &accelerator](const void* from, std::size_t count, ElementType type,
                                     int peer, CommHandle handle, StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const auto key =
        fmt::format("{} from {} to {} {}", comm.name, comm.rank, peer, comm.sent[peer]++);
    return enqueue(accelerator, comm, stream,
                   {key, from, bytes_of(count, type), {}, nullptr, 0, {}});
  };
  api.receive = [=, this, &accelerator](void* to, std::size_t count, ElementType type, int peer,
                                        CommHandle handle, StreamHandle stream) {
    Comm& comm = comm_of(handle);
    const auto key =
        fmt::format("{} from {} to {} {}", comm.name, peer, comm.rank, comm.received[peer]++);
    return enqueue(
        accelerator, comm, stream,
        {std::nullopt, nullptr, 0, {key}, to, bytes_of(count, type), [](const auto& all) {
           return all.front();
         }});
  };
}

inline void NcclWorld::expect(const std::vector<int>& host_of_rank) {
  const Comm all{.name = "all", .size = static_cast<int>(host_of_rank.size())};
  for (const std::string& key : keys_of(all, 0)) put(key, {});
  for (std::size_t rank = 0; rank < host_of_rank.size(); ++rank) {
    put(fmt::format("all split 1 {}", rank), Bytes(1, std::byte{0}));
    put(fmt::format("all split 2 {}", rank),
        Bytes(1, static_cast<std::byte>(1 + host_of_rank[rank])));
  }
}

inline device::nccl::Api NcclWorld::make_api(FakeAccelerator& accelerator) {
  using namespace device::nccl;
  Api api;
  api.path = "a world of threads";
  api.version = 22809;
  api.get_unique_id = [](UniqueId* id) {
    id->bytes.front() = 'w';
    return Result::success;
  };
  api.comm_init_rank_config = [this](CommHandle* made, int ranks, UniqueId id, int rank,
                                     CommConfig*) {
    if (id.bytes.front() != 'w') return Result::invalid_argument;
    *made = add({.name = "all", .rank = rank, .size = ranks});
    Comm& comm = comm_of(*made);
    const Keys keys = keys_of(comm, comm.calls++);
    put(keys[static_cast<std::size_t>(rank)], {});
    comm.connect = [this, keys] { return take(keys).has_value(); };
    return Result::in_progress;
  };
  api.comm_split = [this](CommHandle parent, int color, int key, CommHandle* made, CommConfig*) {
    return split(comm_of(parent), color, key, made);
  };
  api.comm_get_async_error = [this](CommHandle handle, Result* state) {
    Comm& comm = comm_of(handle);
    if (comm.connect && comm.connect()) comm.connect = nullptr;
    const std::lock_guard lock(mutex_);
    *state = comm.connect ? Result::in_progress : failure_;
    return Result::success;
  };
  const auto end = [this](const char* how) {
    return [this, how](CommHandle handle) {
      const std::lock_guard lock(mutex_);
      comm_of(handle).ends += std::string(" ") + how;
      return Result::success;
    };
  };
  api.comm_finalize = end("finalize");
  api.comm_destroy = end("destroy");
  // Begun in one thread while another one, which posts calls, may be in a group of its own.
  const auto groups = std::make_shared<std::map<std::thread::id, Group>>();
  const auto group_here = [this, groups]() -> Group& {
    const std::lock_guard lock(mutex_);
    return (*groups)[std::this_thread::get_id()];
  };
  api.comm_abort = [this, &accelerator, group_here, abort = end("abort")](CommHandle handle) {
    abort(handle);
    Group& group = group_here();
    {
      const std::lock_guard lock(mutex_);
      comm_of(handle).is_aborted = true;
      group.aborted.push_back(&comm_of(handle));
    }
    if (group.depth == 0) wait_for_aborted(accelerator, group);
    return Result::success;
  };
  api.get_error_string = [](Result) { return "an error"; };
  api.get_last_error = [](CommHandle) { return ""; };
  api.group_start = [group_here] {
    ++group_here().depth;
    return Result::success;
  };
  api.group_end = [this, &accelerator, group_here] {
    Group& group = group_here();
    if (--group.depth == 0) wait_for_aborted(accelerator, group);
    return Result::success;
  };
  add_reductions(api, accelerator);
  add_movements(api, accelerator);
  return api;
}

}  // namespace scalecom::test
