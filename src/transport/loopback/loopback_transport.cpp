#include "transport/loopback/loopback_transport.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/error.hpp"
#include "base/lost_rank.hpp"

namespace scalecom {
namespace {

enum class PostState { waiting, copying, done, lost };

struct Post {
  std::byte* data = nullptr;
  std::size_t size = 0;
  int owner = 0;
  int peer = 0;
  std::atomic<PostState> state{PostState::waiting};
};

using PostPointer = std::shared_ptr<Post>;

}  // namespace

/// Where sends meet receives. The mutex guards the lists; the copy happens outside of it, between
/// the states copying and done.
class LoopbackHub {
 public:
  explicit LoopbackHub(int size) : size_(size), is_lost_(static_cast<std::size_t>(size)) {}

  int size() const noexcept { return size_; }

  void post_send(const PostPointer& post, int tag) {
    match(post, {post->owner, post->peer, tag}, true);
  }
  void post_receive(const PostPointer& post, int tag) {
    match(post, {post->peer, post->owner, tag}, false);
  }

  // Takes every post of `rank` back; waits for copies in progress, which are short.
  void withdraw(int rank) {
    std::vector<PostPointer> copying;
    {
      const std::lock_guard lock(mutex_);
      withdraw_locked(rank);
      for (const PostPointer& post : copying_) {
        if (post->owner == rank) copying.push_back(post);
      }
    }
    for (const PostPointer& post : copying) {
      while (post->state.load(std::memory_order_acquire) == PostState::copying) sched_yield();
    }
  }

  void lose(int rank) {
    {
      const std::lock_guard lock(mutex_);
      is_lost_[static_cast<std::size_t>(rank)] = true;
      for (auto& [key, lists] : lists_) {
        for (auto* list : {&lists.sends, &lists.receives}) {
          for (const PostPointer& post : *list) {
            if (post->peer == rank) post->state.store(PostState::lost, std::memory_order_release);
          }
          std::erase_if(*list, [rank](const PostPointer& post) { return post->peer == rank; });
        }
      }
    }
    withdraw(rank);
  }

 private:
  struct Lists {
    std::deque<PostPointer> sends;
    std::deque<PostPointer> receives;
  };
  using Key = std::tuple<int, int, int>;  // sender, receiver, tag

  void match(const PostPointer& post, const Key& key, bool is_send) {
    PostPointer other;
    {
      const std::lock_guard lock(mutex_);
      if (is_lost_[static_cast<std::size_t>(post->peer)] ||
          is_lost_[static_cast<std::size_t>(post->owner)]) {
        post->state.store(PostState::lost, std::memory_order_release);
        return;
      }
      Lists& lists = lists_[key];
      auto& theirs = is_send ? lists.receives : lists.sends;
      if (theirs.empty()) {
        (is_send ? lists.sends : lists.receives).push_back(post);
        return;
      }
      other = std::move(theirs.front());
      theirs.pop_front();
      post->state.store(PostState::copying, std::memory_order_relaxed);
      other->state.store(PostState::copying, std::memory_order_relaxed);
      copying_.push_back(post);
      copying_.push_back(other);
    }
    copy(is_send ? *post : *other, is_send ? *other : *post);
    const std::lock_guard lock(mutex_);
    std::erase(copying_, post);
    std::erase(copying_, other);
    post->state.store(PostState::done, std::memory_order_release);
    other->state.store(PostState::done, std::memory_order_release);
  }

  static void copy(const Post& send, const Post& receive) {
    SCALECOM_ASSERT(send.size == receive.size,
                    fmt::format("rank {} sends {} bytes to rank {}, which expects {}", send.owner,
                                send.size, receive.owner, receive.size));
    if (send.size > 0) std::memcpy(receive.data, send.data, send.size);
  }

  void withdraw_locked(int rank) {
    for (auto& [key, lists] : lists_) {
      for (auto* list : {&lists.sends, &lists.receives}) {
        std::erase_if(*list, [rank](const PostPointer& post) { return post->owner == rank; });
      }
    }
  }

  const int size_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Key, Lists> lists_;
  std::vector<PostPointer> copying_;
  std::vector<bool> is_lost_;
};

namespace {

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<LoopbackHub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank) {}
  ~LoopbackTransport() override { cancel_all(); }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return hub_->size(); }
  std::string_view name() const noexcept override { return "loopback"; }

  TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) override {
    counters_.add_message(bytes.size());
    // Only read, by whoever copies.
    const auto [request, post] = add(const_cast<std::byte*>(bytes.data()), bytes.size(), peer);
    hub_->post_send(post, tag);
    return request;
  }

  TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) override {
    const auto [request, post] = add(bytes.data(), bytes.size(), peer);
    hub_->post_receive(post, tag);
    return request;
  }

  bool test(TransportRequest& request) override {
    if (request.is_null()) return true;
    const auto found = posts_.find(request.id);
    SCALECOM_ASSERT(found != posts_.end(), fmt::format("request {} is unknown", request.id));
    const PostState state = found->second->state.load(std::memory_order_acquire);
    if (state == PostState::waiting || state == PostState::copying) return false;
    const int peer = found->second->peer;
    posts_.erase(found);
    request = {};
    if (state == PostState::lost) {
      throw lost_rank(peer, "its transport was closed");
    }
    return true;
  }

  void cancel_all() noexcept override {
    is_cancelled_ = true;
    hub_->withdraw(rank_);
    posts_.clear();
  }

  TransportCounters counters() const noexcept override { return counters_; }

 private:
  std::pair<TransportRequest, PostPointer> add(std::byte* data, std::size_t size, int peer) {
    if (is_cancelled_) throw Error(StatusCode::internal, "the transport was cancelled");
    SCALECOM_ASSERT(peer >= 0 && peer < hub_->size(), fmt::format("peer {}", peer));
    auto post = std::make_shared<Post>();
    post->data = data;
    post->size = size;
    post->owner = rank_;
    post->peer = peer;
    const TransportRequest request{++last_id_};
    posts_.emplace(request.id, post);
    return {request, std::move(post)};
  }

  std::shared_ptr<LoopbackHub> hub_;
  const int rank_;
  bool is_cancelled_ = false;
  std::uint64_t last_id_ = 0;
  std::unordered_map<std::uint64_t, PostPointer> posts_;
  TransportCounters counters_;
};

}  // namespace

LoopbackWorld::LoopbackWorld(int size) : hub_(std::make_shared<LoopbackHub>(size)) {}
LoopbackWorld::~LoopbackWorld() = default;

std::unique_ptr<Transport> LoopbackWorld::make_transport(int rank) {
  return std::make_unique<LoopbackTransport>(hub_, rank);
}

void LoopbackWorld::lose(int rank) { hub_->lose(rank); }

}  // namespace scalecom
