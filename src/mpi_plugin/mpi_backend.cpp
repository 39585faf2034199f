#include "mpi_plugin/mpi_backend.hpp"

#include <mpi.h>

#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/wait.hpp"
#include "collective/mpi/mpi_collectives.hpp"
#include "mpi_plugin/make_mpi_backend.hpp"
#include "mpi_plugin/mpi_process.hpp"
#include "transport/mpi/mpi_call.hpp"
#include "transport/mpi/mpi_transport.hpp"

namespace scalecom {
namespace {

// An operation of all ranks, waited for under the wait discipline. `Work` has the memory that the
// operation works on, and its request. MPI cannot withdraw a collective: one that was given up may
// still read and write that memory whenever MPI is called, so it stays behind then.
template <class Work, class Start>
void run_collective(std::unique_ptr<Work>& work, const WaitContext& context, const char* call,
                    const Start& start) {
  check_mpi(start(*work), call);
  try {
    wait_for_mpi(work->request, context, call);
  } catch (const Error&) {
    (void)work.release();
    renounce_finalize();  // It would wait for the ranks that did not come.
    throw;
  }
}

struct BlobExchange {
  explicit BlobExchange(std::string blob, int size)
      : mine(std::move(blob)),
        bytes(static_cast<int>(mine.size())),
        counts(static_cast<std::size_t>(size)),
        places(counts.size()) {}

  std::vector<std::string> blobs() const {
    std::vector<std::string> blobs;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      blobs.push_back(
          all.substr(static_cast<std::size_t>(places[r]), static_cast<std::size_t>(counts[r])));
    }
    return blobs;
  }

  const std::string mine;
  const int bytes;
  std::vector<int> counts;
  std::vector<int> places;
  std::string all;
  MPI_Request request = MPI_REQUEST_NULL;
};

class MpiBootstrap final : public Bootstrap {
 public:
  explicit MpiBootstrap(MPI_Comm communicator) : communicator_(communicator) {
    check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }

 private:
  std::vector<std::string> exchange_in_step(const std::string& mine, Limit limit) override {
    const WaitContext context{Deadline::after(limit)};
    auto work = std::make_unique<BlobExchange>(mine, size_);
    try {
      gather(work, context);
    } catch (const Error& error) {
      if (error.code() == StatusCode::timed_out) throw ranks_missing(size_, limit);
      throw;
    }
    return work->blobs();
  }

  void gather(std::unique_ptr<BlobExchange>& work, const WaitContext& context) const {
    run_collective(work, context, "MPI_Iallgather", [&](BlobExchange& blobs) {
      return MPI_Iallgather(&blobs.bytes, 1, MPI_INT, blobs.counts.data(), 1, MPI_INT,
                            communicator_, &blobs.request);
    });
    std::exclusive_scan(work->counts.begin(), work->counts.end(), work->places.begin(), 0);
    work->all.resize(static_cast<std::size_t>(work->places.back() + work->counts.back()));
    run_collective(work, context, "MPI_Iallgatherv", [&](BlobExchange& blobs) {
      return MPI_Iallgatherv(blobs.mine.data(), blobs.bytes, MPI_CHAR, blobs.all.data(),
                             blobs.counts.data(), blobs.places.data(), MPI_CHAR, communicator_,
                             &blobs.request);
    });
  }

  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
};

struct Duplication {
  MPI_Comm communicator = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
};

// A communicator of our own: no message of the program can meet one of ours.
MPI_Comm duplicate_world(Bootstrap::Limit limit, Interrupt* interrupt) {
  ensure_mpi();
  const WaitContext context{Deadline::after(limit), interrupt};
  auto copy = std::make_unique<Duplication>();
  try {
    run_collective(copy, context, "MPI_Comm_idup", [](Duplication& work) {
      return MPI_Comm_idup(MPI_COMM_WORLD, &work.communicator, &work.request);
    });
  } catch (const Error& error) {
    if (error.code() != StatusCode::timed_out) throw;
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    throw ranks_missing(size, limit);
  }
  check_mpi(MPI_Comm_set_errhandler(copy->communicator, MPI_ERRORS_RETURN),
            "MPI_Comm_set_errhandler");
  return copy->communicator;
}

class MpiBackendImpl final : public MpiBackend {
 public:
  MpiBackendImpl(Bootstrap::Limit limit, Interrupt* interrupt)
      : communicator_(duplicate_world(limit, interrupt)), bootstrap_(communicator_) {}

  // MPI_Comm_free is collective: after a failure, or when MPI is over, the communicator stays.
  ~MpiBackendImpl() override {
    const bool is_usable = !has_failed_ && !bootstrap_.is_out_of_step();
    if (is_usable && !is_mpi_finalized()) MPI_Comm_free(&communicator_);
  }

  Bootstrap& bootstrap() noexcept override { return bootstrap_; }
  std::unique_ptr<Transport> make_transport() override { return make_mpi_transport(communicator_); }
  std::unique_ptr<Collectives> make_collectives() override {
    return make_mpi_collectives(communicator_);
  }
  std::string library_version() const override { return mpi_library_version(); }
  std::string thread_level() const override { return mpi_thread_level(); }
  std::string cuda_aware() const override { return mpi_cuda_aware(); }
  void progress() override {
    if (is_mpi_finalized()) return;  // By the program, too early.
    int has_message = 0;
    check_mpi(
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, communicator_, &has_message, MPI_STATUS_IGNORE),
        "MPI_Iprobe");
  }
  void set_failed() noexcept override {
    has_failed_ = true;
    renounce_finalize();
  }

 private:
  MPI_Comm communicator_;
  MpiBootstrap bootstrap_;
  bool has_failed_ = false;
};

}  // namespace

std::unique_ptr<MpiBackend> make_mpi_backend(Bootstrap::Limit limit, Interrupt* interrupt) {
  return std::make_unique<MpiBackendImpl>(limit, interrupt);
}

}  // namespace scalecom
