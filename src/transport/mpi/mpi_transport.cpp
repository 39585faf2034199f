#include "transport/mpi/mpi_transport.hpp"

#include <limits>
#include <vector>

#include "base/error.hpp"
#include "transport/mpi/mpi_call.hpp"

namespace scalecom {
namespace {

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(MPI_Comm communicator) : communicator_(communicator) {
    check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
  }
  ~MpiTransport() override { cancel_all(); }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view name() const noexcept override { return "mpi"; }

  TransportRequest post_send(std::span<const std::byte> bytes, int peer, int tag) override {
    const std::size_t slot = take_slot();
    check_mpi(MPI_Isend(bytes.data(), to_count(bytes.size()), MPI_BYTE, peer, tag, communicator_,
                        &slots_[slot].request),
              "MPI_Isend");
    slots_[slot].is_receive = false;
    counters_.add_message(bytes.size());
    return {slot + 1};
  }

  TransportRequest post_receive(std::span<std::byte> bytes, int peer, int tag) override {
    const std::size_t slot = take_slot();
    check_mpi(MPI_Irecv(bytes.data(), to_count(bytes.size()), MPI_BYTE, peer, tag, communicator_,
                        &slots_[slot].request),
              "MPI_Irecv");
    slots_[slot].is_receive = true;
    slots_[slot].bytes = to_count(bytes.size());
    return {slot + 1};
  }

  bool test(TransportRequest& request) override {
    if (request.is_null()) return true;
    Slot& slot = slots_[request.id - 1];
    int is_done = 0;
    MPI_Status status;
    const int code = MPI_Test(&slot.request, &is_done, &status);
    if (code == MPI_SUCCESS && is_done == 0) return false;
    free_.push_back(request.id - 1);
    request = {};
    check_mpi(code, slot.is_receive ? "receiving (MPI_Test)" : "sending (MPI_Test)");
    if (slot.is_receive) check_size(slot, status);
    return true;
  }

  // A receive is withdrawn; a send is let go, because MPI cannot cancel it: its bytes are only
  // read, and only inside of MPI calls, which end with the session.
  void cancel_all() noexcept override {
    is_cancelled_ = true;
    for (Slot& slot : slots_) {
      if (slot.request == MPI_REQUEST_NULL) continue;
      if (slot.is_receive) MPI_Cancel(&slot.request);
      MPI_Request_free(&slot.request);
    }
  }

  TransportCounters counters() const noexcept override { return counters_; }

 private:
  struct Slot {
    MPI_Request request = MPI_REQUEST_NULL;
    int bytes = 0;
    bool is_receive = false;
  };

  std::size_t take_slot() {
    if (is_cancelled_) throw Error(StatusCode::internal, "the transport was cancelled");
    if (free_.empty()) {
      slots_.emplace_back();
      return slots_.size() - 1;
    }
    const std::size_t slot = free_.back();
    free_.pop_back();
    return slot;
  }

  static int to_count(std::size_t bytes) {
    SCALECOM_ASSERT(bytes <= static_cast<std::size_t>(std::numeric_limits<int>::max()),
                    std::to_string(bytes) + " bytes in one message");
    return static_cast<int>(bytes);
  }

  static void check_size(const Slot& slot, const MPI_Status& status) {
    int bytes = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    if (bytes != slot.bytes) {
      throw Error(StatusCode::internal, "rank " + std::to_string(status.MPI_SOURCE) + " sent " +
                                            std::to_string(bytes) + " bytes, " +
                                            std::to_string(slot.bytes) + " were expected");
    }
  }

  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
  bool is_cancelled_ = false;
  // An index is a request's id minus one; requests are copied by value, as MPI handles may be.
  std::vector<Slot> slots_;
  std::vector<std::size_t> free_;
  TransportCounters counters_;
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(MPI_Comm communicator) {
  return std::make_unique<MpiTransport>(communicator);
}

}  // namespace scalecom
