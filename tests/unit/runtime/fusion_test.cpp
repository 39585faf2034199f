#include "runtime/fusion.hpp"

#include <algorithm>
#include <limits>

#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

AgreedTensor tensor(const std::string& name, std::int64_t count, DataType dtype = DataType::float32,
                    ReduceOp op = ReduceOp::sum) {
  AgreedTensor agreed;
  agreed.name = name;
  agreed.signature.dtype = dtype;
  agreed.signature.op = op;
  agreed.signature.shape = {count};
  return agreed;
}

AgreedTensor compressed(const std::string& name, std::int64_t count, std::int64_t step,
                        std::int64_t warmup_steps = 0) {
  AgreedTensor agreed = tensor(name, count);
  agreed.signature.compression = {CompressionMode::cyclic, 10, 1.0, warmup_steps};
  agreed.step = step;
  return agreed;
}

using Places = std::vector<std::size_t>;

}  // namespace

TEST_CASE("all-reduces of one dtype and op share a batch up to the threshold") {
  const Agreement agreement{1, {tensor("a", 10), tensor("b", 10), tensor("c", 6)}};
  const auto batches = plan_batches(agreement, 2, 80);
  REQUIRE(batches.size() == 2);
  CHECK(batches[0].tensors == Places{0, 1});
  CHECK(batches[0].bytes == 80);
  CHECK(batches[1].tensors == Places{2});
}

TEST_CASE("average travels as a sum and fuses with one") {
  const Agreement agreement{1,
                            {tensor("a", 1), tensor("b", 1, DataType::float32, ReduceOp::average)}};
  const auto batches = plan_batches(agreement, 2, 1024);
  REQUIRE(batches.size() == 1);
  CHECK(batches[0].op == ReduceOp::sum);
}

TEST_CASE("Adasums of one dtype share a batch of their own") {
  const Agreement agreement{1,
                            {tensor("a", 1), tensor("b", 1, DataType::float32, ReduceOp::adasum),
                             tensor("c", 1, DataType::float64, ReduceOp::adasum),
                             tensor("d", 1, DataType::float32, ReduceOp::adasum)}};
  const auto batches = plan_batches(agreement, 2, 1024);
  REQUIRE(batches.size() == 3);
  CHECK(batches[0].kind == BatchKind::dense_all_reduce);
  CHECK(batches[1].kind == BatchKind::adasum);
  CHECK(batches[1].tensors == Places{1, 3});
  CHECK(batches[2].dtype == DataType::float64);
}

TEST_CASE("different dtypes, ops, roots, devices and operations never share a batch") {
  Agreement agreement{1,
                      {tensor("a", 1), tensor("b", 1, DataType::float64),
                       tensor("c", 1, DataType::float32, ReduceOp::max), tensor("d", 1)}};
  agreement.tensors.push_back(tensor("e", 1));
  agreement.tensors.back().signature.kind = OperationKind::broadcast;
  agreement.tensors.push_back(tensor("f", 1));
  agreement.tensors.back().signature.kind = OperationKind::broadcast;
  agreement.tensors.push_back(tensor("g", 1));
  agreement.tensors.back().signature.kind = OperationKind::broadcast;
  agreement.tensors.back().signature.root = 1;
  agreement.tensors.push_back(tensor("h", 1));
  agreement.tensors.back().signature.device = DeviceKind::cuda;
  const auto batches = plan_batches(agreement, 2, 1024);
  REQUIRE(batches.size() == 6);
  CHECK(batches[5].device == DeviceKind::cuda);
  CHECK(batches[0].tensors == Places{0, 3});
  CHECK(batches[3].tensors == Places{4, 5});
  CHECK(batches[3].root == 0);
  CHECK(batches[4].tensors == Places{6});
  CHECK(batches[4].root == 1);
}

TEST_CASE("reduce-scatters share a batch, all-to-alls another; bytes count what a rank moves") {
  Agreement agreement;
  for (const auto kind :
       {OperationKind::reduce_scatter, OperationKind::all_to_all, OperationKind::all_gather}) {
    for (const std::string name : {"a", "b"}) {
      agreement.tensors.push_back(
          tensor(name + to_string(kind), 5, DataType::float64, ReduceOp::average));
      agreement.tensors.back().signature.kind = kind;
      if (kind == OperationKind::all_to_all) agreement.tensors.back().first_extents = {1, 2, 3, 4};
      if (kind == OperationKind::all_gather) agreement.tensors.back().first_extents = {5, 7};
    }
  }
  const auto batches = plan_batches(agreement, 2, 1024);
  REQUIRE(batches.size() == 3);
  CHECK(batches[0].kind == BatchKind::reduce_scatter);
  CHECK(batches[0].dtype == DataType::float64);
  CHECK(batches[0].op == ReduceOp::sum);
  CHECK(batches[0].bytes == 2 * 40);
  CHECK(batches[1].kind == BatchKind::all_to_all);
  CHECK(batches[1].tensors == Places{2, 3});
  CHECK(batches[1].bytes == 2 * 5 * 8);
  CHECK(batches[2].kind == BatchKind::all_gather);
  CHECK(batches[2].bytes == 2 * 12 * 8);
}

TEST_CASE("a tensor above the threshold is a batch by itself") {
  const Agreement agreement{1, {tensor("a", 100), tensor("b", 1), tensor("c", 1)}};
  const auto batches = plan_batches(agreement, 2, 16);
  REQUIRE(batches.size() == 2);
  CHECK(batches[0].tensors == Places{0});
  CHECK(batches[1].tensors == Places{1, 2});
}

TEST_CASE("threshold 0 turns fusion off") {
  const Agreement agreement{1, {tensor("a", 1), tensor("b", 1)}};
  CHECK(plan_batches(agreement, 2, 0).size() == 2);
}

TEST_CASE("the leader is the agreed step modulo the world size, and leaders do not mix") {
  const Agreement agreement{
      1, {compressed("a", 95, 7), compressed("b", 95, 8), compressed("c", 95, 4)}};
  const auto batches = plan_batches(agreement, 3, 1024);
  REQUIRE(batches.size() == 2);
  CHECK(batches[0].kind == BatchKind::sparse_all_reduce);
  CHECK(batches[0].sparse.leader == 1);
  CHECK(batches[0].tensors == Places{0, 2});
  CHECK(batches[0].bytes == 2 * 10 * 4);
  CHECK(batches[1].sparse.leader == 2);
}

TEST_CASE("modes and dtypes of values do not mix, and the buffer holds values of that dtype") {
  Agreement agreement{1, {}};
  for (const CompressionMode mode : {CompressionMode::cyclic, CompressionMode::sharded}) {
    for (const DataType values : {DataType::float32, DataType::float16, DataType::bfloat16}) {
      for (int twin = 0; twin < 2; ++twin) {
        AgreedTensor& tensor = agreement.tensors.emplace_back(compressed("t", 95, 4));
        tensor.name += std::to_string(agreement.tensors.size());
        tensor.signature.compression.mode = mode;
        tensor.signature.compression.values = values;
      }
    }
  }
  const auto batches = plan_batches(agreement, 3, 1024);
  REQUIRE(batches.size() == 6);
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const Compression& compression = agreement.tensors[2 * i].signature.compression;
    CHECK(batches[i].tensors == Places{2 * i, 2 * i + 1});
    CHECK(batches[i].sparse.mode == compression.mode);
    CHECK(batches[i].sparse.values == compression.values);
    CHECK(batches[i].bytes == 2 * 10 * size_of(compression.values));
  }
}

TEST_CASE("warm-up steps are dense and join dense batches") {
  const Agreement agreement{1,
                            {compressed("a", 95, 2, 3), tensor("b", 5), compressed("c", 95, 3, 3)}};
  const auto batches = plan_batches(agreement, 2, 1024);
  REQUIRE(batches.size() == 2);
  CHECK(batches[0].kind == BatchKind::dense_all_reduce);
  CHECK(batches[0].tensors == Places{0, 1});
  CHECK(batches[1].kind == BatchKind::sparse_all_reduce);
}

TEST_CASE(
    "the rate doubles at equal intervals of the ramp, from 4 to 7 on, and ends as asked for") {
  const auto rates = [](std::int64_t rate, std::int32_t ramp_steps, std::int64_t warmup_steps = 0) {
    Compression compression{CompressionMode::cyclic, rate, 1.0, warmup_steps};
    compression.ramp_steps = ramp_steps;
    std::vector<std::int64_t> found;
    for (std::int64_t step = warmup_steps; step < warmup_steps + ramp_steps + 2; ++step) {
      found.push_back(rate_at(compression, step));
    }
    return found;
  };
  using Rates = std::vector<std::int64_t>;
  CHECK(rates(100, 0) == Rates{100, 100});
  CHECK(rates(100, 8) == Rates{6, 6, 12, 12, 25, 25, 50, 50, 100, 100});
  CHECK(rates(100, 8, 1'000'000) == rates(100, 8));
  CHECK(rates(100, 2) == Rates{6, 25, 100, 100});
  CHECK(rates(100, 1) == Rates{6, 100, 100});
  CHECK(rates(7, 2) == Rates{7, 7, 7, 7});
  CHECK(rates(8, 2) == Rates{4, 4, 8, 8});
  CHECK(rates(1, 1) == Rates{1, 1, 1});
  for (const std::int64_t rate : {2, 25, 400, 65'535, 65'536}) {
    const Rates all = rates(rate, 1000);
    CHECK(std::is_sorted(all.begin(), all.end()));
    CHECK(all.front() >= std::min<std::int64_t>(rate, 4));
    CHECK(all.front() <= 7);
    CHECK(all.back() == rate);
  }
  Compression endless{CompressionMode::cyclic, 65'536, 1.0, 0};
  endless.ramp_steps = std::numeric_limits<std::int32_t>::max();
  CHECK(rate_at(endless, endless.ramp_steps - 1) == 32'768);
}

TEST_CASE("in its ramp a tensor fills the buffer by the rate of its step") {
  AgreedTensor ramping = compressed("a", 960, 0);
  ramping.signature.compression.rate = 16;
  ramping.signature.compression.ramp_steps = 2;
  for (const auto& [step, selected] : {std::pair{0, 240}, {1, 120}, {2, 60}}) {
    ramping.step = step;
    Agreement agreement{1, {ramping}};
    settle_rates(agreement);
    CHECK(plan_batches(agreement, 2, 1 << 20)[0].bytes == selected * 4);
  }
}
