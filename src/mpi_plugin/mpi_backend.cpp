#include "transport/mpi/mpi_backend.hpp"

#include <mpi.h>

#include <numeric>
#include <vector>

#include "collective/mpi/mpi_collectives.hpp"
#include "mpi_plugin/make_mpi_backend.hpp"
#include "mpi_plugin/mpi_process.hpp"
#include "transport/mpi/mpi_error.hpp"
#include "transport/mpi/mpi_transport.hpp"

namespace scalecom {
namespace {

class MpiBootstrap final : public Bootstrap {
 public:
  explicit MpiBootstrap(MPI_Comm communicator) : communicator_(communicator) {
    check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }

  std::vector<std::string> exchange(const std::string& mine) override {
    const int bytes = static_cast<int>(mine.size());
    std::vector<int> counts(static_cast<std::size_t>(size_));
    check_mpi(MPI_Allgather(&bytes, 1, MPI_INT, counts.data(), 1, MPI_INT, communicator_),
              "MPI_Allgather");
    std::vector<int> places(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), places.begin(), 0);
    std::string all(static_cast<std::size_t>(places.back() + counts.back()), '\0');
    check_mpi(MPI_Allgatherv(mine.data(), bytes, MPI_CHAR, all.data(), counts.data(), places.data(),
                             MPI_CHAR, communicator_),
              "MPI_Allgatherv");
    std::vector<std::string> blobs;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      blobs.push_back(
          all.substr(static_cast<std::size_t>(places[r]), static_cast<std::size_t>(counts[r])));
    }
    return blobs;
  }

 private:
  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
};

// A communicator of our own: no message of the program can meet one of ours.
MPI_Comm duplicate_world() {
  ensure_mpi();
  MPI_Comm communicator = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return communicator;
}

class MpiBackendImpl final : public MpiBackend {
 public:
  MpiBackendImpl() : communicator_(duplicate_world()), bootstrap_(communicator_) {}

  // MPI_Comm_free is collective: after a failure, or when MPI is over, the communicator stays.
  ~MpiBackendImpl() override {
    int is_finalized = 0;
    MPI_Finalized(&is_finalized);
    if (!has_failed_ && is_finalized == 0) MPI_Comm_free(&communicator_);
  }

  Bootstrap& bootstrap() noexcept override { return bootstrap_; }
  std::unique_ptr<Transport> make_transport() override { return make_mpi_transport(communicator_); }
  std::unique_ptr<Collectives> make_collectives() override {
    return make_mpi_collectives(communicator_);
  }
  std::string library_version() const override { return mpi_library_version(); }
  std::string thread_level() const override { return mpi_thread_level(); }
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

std::unique_ptr<MpiBackend> make_mpi_backend() { return std::make_unique<MpiBackendImpl>(); }

}  // namespace scalecom
