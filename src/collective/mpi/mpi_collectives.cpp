#include "collective/mpi/mpi_collectives.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "base/error.hpp"
#include "collective/group.hpp"
#include "kernels/reduce.hpp"
#include "transport/mpi/mpi_call.hpp"

namespace scalecom {
namespace {

// MPI counts are int: longer vectors go in pieces.
constexpr std::int64_t kPieceElements = 1 << 30;

MPI_Datatype mpi_type(DataType dtype) {
  switch (dtype) {
    case DataType::uint8: return MPI_UINT8_T;
    case DataType::int8: return MPI_INT8_T;
    case DataType::int16: return MPI_INT16_T;
    case DataType::int32: return MPI_INT32_T;
    case DataType::int64: return MPI_INT64_T;
    case DataType::float32: return MPI_FLOAT;
    case DataType::float64: return MPI_DOUBLE;
    case DataType::boolean: return MPI_C_BOOL;
    // Not MPI's: our own operations below work on their bits.
    case DataType::float16:
    case DataType::bfloat16: return MPI_UINT16_T;
  }
  SCALECOM_ASSERT(false, to_string(dtype));
  return MPI_BYTE;
}

template <DataType kDtype, ReduceOp kOp>
void reduce_halves(void* in, void* inout, int* count, MPI_Datatype*) {
  auto* target = static_cast<std::byte*>(inout);
  kernels::reduce(target, static_cast<const std::byte*>(in), target, *count, kDtype, kOp);
}

// MPI operations for the 16-bit floats, made on first use and kept by their owner.
class HalfOps {
 public:
  HalfOps() { ops_.fill(MPI_OP_NULL); }
  ~HalfOps() {
    int is_finalized = 0;
    MPI_Finalized(&is_finalized);
    for (MPI_Op& op : ops_) {
      if (op != MPI_OP_NULL && is_finalized == 0) MPI_Op_free(&op);
    }
  }
  HalfOps(const HalfOps&) = delete;
  HalfOps& operator=(const HalfOps&) = delete;

  MPI_Op get(DataType dtype, ReduceOp op) {
    return dtype == DataType::float16 ? get_for<DataType::float16>(0, op)
                                      : get_for<DataType::bfloat16>(4, op);
  }

 private:
  template <DataType kDtype>
  MPI_Op get_for(std::size_t base, ReduceOp op) {
    switch (op) {
      case ReduceOp::sum: return make(base, reduce_halves<kDtype, ReduceOp::sum>);
      case ReduceOp::min: return make(base + 1, reduce_halves<kDtype, ReduceOp::min>);
      case ReduceOp::max: return make(base + 2, reduce_halves<kDtype, ReduceOp::max>);
      default: return make(base + 3, reduce_halves<kDtype, ReduceOp::product>);
    }
  }

  MPI_Op make(std::size_t place, MPI_User_function* function) {
    if (ops_[place] == MPI_OP_NULL) {
      check_mpi(MPI_Op_create(function, 1, &ops_[place]), "MPI_Op_create");
    }
    return ops_[place];
  }

  std::array<MPI_Op, 8> ops_;
};

MPI_Op mpi_op(DataType dtype, ReduceOp op, HalfOps& halves) {
  if (dtype == DataType::float16 || dtype == DataType::bfloat16) return halves.get(dtype, op);
  const bool is_bool = dtype == DataType::boolean;
  switch (op) {
    case ReduceOp::sum: return is_bool ? MPI_LOR : MPI_SUM;
    case ReduceOp::max: return is_bool ? MPI_LOR : MPI_MAX;
    case ReduceOp::min: return is_bool ? MPI_LAND : MPI_MIN;
    case ReduceOp::product: return is_bool ? MPI_LAND : MPI_PROD;
    case ReduceOp::average:
    case ReduceOp::adasum: break;
  }
  SCALECOM_ASSERT(false, std::string(to_string(op)) + " is no operation of MPI");
  return MPI_OP_NULL;
}

// One part for each rank at any place: an MPI datatype a part, because MPI's own displacements are
// int. Released by free(); after a failure they stay behind with the operation.
class PartTypes {
 public:
  explicit PartTypes(std::span<const std::int64_t> bytes_per_rank) {
    std::int64_t begin = 0;
    for (const std::int64_t bytes : bytes_per_rank) {
      types_.push_back(make(begin, bytes));
      begin += bytes;
    }
  }

  const MPI_Datatype* data() const noexcept { return types_.data(); }

  void free() {
    for (MPI_Datatype& type : types_) check_mpi(MPI_Type_free(&type), "MPI_Type_free");
  }

 private:
  static MPI_Datatype make(std::int64_t begin, std::int64_t bytes) {
    std::vector<int> lengths;
    std::vector<MPI_Aint> places;
    for (std::int64_t done = 0; done < bytes; done += kPieceElements) {
      lengths.push_back(static_cast<int>(std::min(kPieceElements, bytes - done)));
      places.push_back(static_cast<MPI_Aint>(begin + done));
    }
    MPI_Datatype type = MPI_DATATYPE_NULL;
    check_mpi(MPI_Type_create_hindexed(static_cast<int>(lengths.size()), lengths.data(),
                                       places.data(), MPI_BYTE, &type),
              "MPI_Type_create_hindexed");
    check_mpi(MPI_Type_commit(&type), "MPI_Type_commit");
    return type;
  }

  std::vector<MPI_Datatype> types_;
};

class MpiCollectives final : public Collectives {
 public:
  explicit MpiCollectives(MPI_Comm communicator) : communicator_(communicator) {}

  std::string_view name() const noexcept override { return "mpi"; }
  int rank() const noexcept override {
    int rank = 0;
    MPI_Comm_rank(communicator_, &rank);
    return rank;
  }
  TransportCounters counters() const noexcept override { return counters_; }

  void all_reduce(std::span<std::byte> data, DataType dtype, ReduceOp op,
                  const WaitContext& context) override {
    counters_.add_message(data.size());
    const MPI_Datatype type = mpi_type(dtype);
    const MPI_Op operation = mpi_op(dtype, op, halves_);
    for_each_piece(data, size_of(dtype), [&](std::byte* place, int count) {
      MPI_Request request;
      check_mpi(
          MPI_Iallreduce(MPI_IN_PLACE, place, count, type, operation, communicator_, &request),
          "MPI_Iallreduce");
      wait_for_mpi(request, context, "MPI_Iallreduce");
    });
  }

  void broadcast(std::span<std::byte> data, int root, const WaitContext& context) override {
    counters_.add_message(data.size());
    for_each_piece(data, 1, [&](std::byte* place, int count) {
      MPI_Request request;
      check_mpi(MPI_Ibcast(place, count, MPI_BYTE, root, communicator_, &request), "MPI_Ibcast");
      wait_for_mpi(request, context, "MPI_Ibcast");
    });
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                  std::span<const std::int64_t> bytes_per_rank,
                  const WaitContext& context) override {
    counters_.add_message(mine.size());
    std::vector<std::int64_t> places(bytes_per_rank.size());
    std::exclusive_scan(bytes_per_rank.begin(), bytes_per_rank.end(), places.begin(),
                        std::int64_t{0});
    std::byte* own_place = all.data() + places[static_cast<std::size_t>(rank())];
    if (!mine.empty() && mine.data() != own_place) {
      std::memcpy(own_place, mine.data(), mine.size());
    }
    if (all.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
      for (std::size_t r = 0; r < places.size(); ++r) {
        broadcast(all.subspan(static_cast<std::size_t>(places[r]),
                              static_cast<std::size_t>(bytes_per_rank[r])),
                  static_cast<int>(r), context);
      }
      return;
    }
    const std::vector<int> counts(bytes_per_rank.begin(), bytes_per_rank.end());
    const std::vector<int> displacements(places.begin(), places.end());
    MPI_Request request;
    check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, all.data(), counts.data(),
                              displacements.data(), MPI_BYTE, communicator_, &request),
              "MPI_Iallgatherv");
    wait_for_mpi(request, context, "MPI_Iallgatherv");
  }

  void reduce_scatter(std::span<std::byte> data, std::span<const std::int64_t> bytes_per_rank,
                      DataType dtype, ReduceOp op, const WaitContext& context) override {
    const MPI_Datatype type = mpi_type(dtype);
    const MPI_Op operation = mpi_op(dtype, op, halves_);
    const auto parts = cut(data, bytes_per_rank);
    if (data.size() > static_cast<std::size_t>(kPieceElements * size_of(dtype))) {
      reduce_parts(parts, dtype, operation, context);
      return;
    }
    std::vector<int> counts;
    for (const std::int64_t bytes : bytes_per_rank) {
      counts.push_back(static_cast<int>(bytes / size_of(dtype)));
    }
    MPI_Request request;
    check_mpi(MPI_Ireduce_scatter(MPI_IN_PLACE, data.data(), counts.data(), type, operation,
                                  communicator_, &request),
              "MPI_Ireduce_scatter");
    wait_for_mpi(request, context, "MPI_Ireduce_scatter");
    // In place MPI leaves this rank's part at the beginning.
    const auto mine = parts[static_cast<std::size_t>(rank())];
    if (!mine.empty()) std::memmove(mine.data(), data.data(), mine.size());
  }

  void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_bytes,
                  std::span<std::byte> receive, std::span<const std::int64_t> receive_bytes,
                  const WaitContext& context) override {
    const std::vector<int> counts(send_bytes.size(), 1);
    const std::vector<int> displacements(send_bytes.size(), 0);
    PartTypes send_types(send_bytes);
    PartTypes receive_types(receive_bytes);
    MPI_Request request;
    check_mpi(MPI_Ialltoallw(send.data(), counts.data(), displacements.data(), send_types.data(),
                             receive.data(), counts.data(), displacements.data(),
                             receive_types.data(), communicator_, &request),
              "MPI_Ialltoallw");
    wait_for_mpi(request, context, "MPI_Ialltoallw");
    send_types.free();
    receive_types.free();
  }

 private:
  // Each part to its rank.
  void reduce_parts(const std::vector<std::span<std::byte>>& parts, DataType dtype,
                    MPI_Op operation, const WaitContext& context) {
    const int own = rank();
    for (std::size_t root = 0; root < parts.size(); ++root) {
      const bool is_mine = static_cast<int>(root) == own;
      for_each_piece(parts[root], size_of(dtype), [&](std::byte* place, int count) {
        MPI_Request request;
        check_mpi(MPI_Ireduce(is_mine ? MPI_IN_PLACE : place, place, count, mpi_type(dtype),
                              operation, static_cast<int>(root), communicator_, &request),
                  "MPI_Ireduce");
        wait_for_mpi(request, context, "MPI_Ireduce");
      });
    }
  }

  template <class Body>
  static void for_each_piece(std::span<std::byte> data, std::int64_t element_bytes, Body&& body) {
    const auto count = static_cast<std::int64_t>(data.size()) / element_bytes;
    for (std::int64_t begin = 0; begin < count; begin += kPieceElements) {
      body(data.data() + begin * element_bytes,
           static_cast<int>(std::min(kPieceElements, count - begin)));
    }
  }

  MPI_Comm communicator_;
  HalfOps halves_;
  /// What MPI makes of an operation is not known: its data counts once.
  TransportCounters counters_;
};

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(MPI_Comm communicator) {
  return std::make_unique<MpiCollectives>(communicator);
}

}  // namespace scalecom
