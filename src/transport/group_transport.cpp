#include "transport/group_transport.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"

namespace scalecom {
namespace {

class GroupTransport final : public Transport {
 public:
  GroupTransport(Transport& whole, std::vector<int> ranks)
      : whole_(whole), ranks_(std::move(ranks)) {
    const auto mine = std::find(ranks_.begin(), ranks_.end(), whole.rank());
    SCALECOM_ASSERT(mine != ranks_.end(), std::to_string(whole.rank()) + " is not of the group");
    rank_ = static_cast<int>(mine - ranks_.begin());
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return static_cast<int>(ranks_.size()); }
  std::string_view name() const noexcept override { return whole_.name(); }

  TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) override {
    counters_.add_message(bytes.size());
    return whole_.post_send(bytes, ranks_[static_cast<std::size_t>(peer)], tag);
  }
  TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) override {
    return whole_.post_receive(bytes, ranks_[static_cast<std::size_t>(peer)], tag);
  }
  bool test(TransportRequest& request) override { return whole_.test(request); }
  void cancel_all() noexcept override { whole_.cancel_all(); }
  TransportCounters counters() const noexcept override { return counters_; }

 private:
  Transport& whole_;
  const std::vector<int> ranks_;
  int rank_ = 0;
  TransportCounters counters_;
};

}  // namespace

std::unique_ptr<Transport> make_group_transport(Transport& whole, std::vector<int> ranks) {
  return std::make_unique<GroupTransport>(whole, std::move(ranks));
}

}  // namespace scalecom
