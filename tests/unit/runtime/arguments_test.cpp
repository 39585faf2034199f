#include "runtime/arguments.hpp"

#include <limits>

#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

float storage[64];

TensorView view(Shape shape = {4}, DataType dtype = DataType::float32) {
  return {storage, dtype, std::move(shape), {}};
}

AllReduceOptions compressed(std::int64_t rate, double beta, std::int64_t warmup_steps = 0) {
  AllReduceOptions options;
  options.compression = {CompressionMode::cyclic, rate, beta, warmup_steps, DataType::float32};
  return options;
}

}  // namespace

TEST_CASE("good arguments are accepted") {
  CHECK_NOTHROW(check_all_reduce("w", view(), view(), {}));
  CHECK_NOTHROW(check_all_reduce("w", view({0}), view({0}), {}));
  CHECK_NOTHROW(check_all_reduce("w", view({}), view({}), compressed(1, 1.0)));
  CHECK_NOTHROW(check_all_reduce("w", view({4}), view({4}), compressed(65'536, 1e-6)));
  CHECK_NOTHROW(check_all_gather("w", view({0, 3})));
  CHECK_NOTHROW(check_broadcast("w", view({}), 1, 2));
  CHECK_NOTHROW(check_reduce_scatter("w", view({1, 3}), {}));
  CHECK_NOTHROW(check_all_to_all("w", view({6, 3}), {}, 3));
  CHECK_NOTHROW(check_all_to_all("w", view({0, 3}), {}, 3));
  CHECK_NOTHROW(check_all_to_all("w", view({7}), std::vector<std::int64_t>{0, 7, 0}, 3));
}

TEST_CASE("Adasum is for floating-point all-reduces in host memory") {
  AllReduceOptions adasum;
  adasum.op = ReduceOp::adasum;
  for (const DataType dtype :
       {DataType::float16, DataType::bfloat16, DataType::float32, DataType::float64}) {
    CHECK_NOTHROW(check_all_reduce("w", view({4}, dtype), view({4}, dtype), adasum));
  }
  for (const DataType dtype : {DataType::int32, DataType::uint8, DataType::boolean}) {
    CHECK_THROWS_WITH(check_all_reduce("w", view({4}, dtype), view({4}, dtype), adasum),
                      Contains("tensor w") && Contains(std::string("not ") + to_string(dtype)));
  }
  TensorView cuda = view();
  cuda.device.kind = DeviceKind::cuda;
  CHECK_THROWS_WITH(check_all_reduce("w", cuda, cuda, adasum),
                    Contains("cuda:0") && Contains("copy it to the host"));
  CHECK_THROWS_WITH(check_reduce_scatter("w", view(), adasum), Contains("all-reduces only"));
  AllReduceOptions both = compressed(10, 1.0);
  both.op = ReduceOp::adasum;
  CHECK_THROWS_WITH(check_all_reduce("w", view(), view(), both),
                    Contains("ScaleCom") && Contains("not adasum"));
}

TEST_CASE("a refusal names the tensor, what was got and what is allowed") {
  CHECK_THROWS_WITH(check_all_reduce("", view(), view(), {}), Contains("name"));
  CHECK_THROWS_WITH(check_all_reduce("w", view({2}), view({3}), {}),
                    Contains("tensor w") && Contains("(2)") && Contains("(3)"));
  CHECK_THROWS_WITH(check_all_reduce("w", view({2}), view({2}, DataType::float64), {}),
                    Contains("float32") && Contains("float64"));
  CHECK_THROWS_WITH(check_all_reduce("w", view({-1}), view({-1}), {}), Contains("negative"));
  // 2 to the 62nd float32 are 2 to the 64th bytes; two such extents, no number of elements either.
  const std::int64_t many = std::int64_t{1} << 62;
  for (const Shape& shape : {Shape{many}, Shape{many, many}, Shape{2, many, 0}}) {
    CHECK_THROWS_WITH(check_all_gather("w", view(shape)), Contains("tensor w") &&
                                                              Contains("4611686018427387904") &&
                                                              Contains("bytes of float32"));
    CHECK_THROWS_WITH(check_residual({"w", shape, 0, {}, 1.0}), Contains("bytes of float32"));
  }
  CHECK_NOTHROW(check_all_gather("w", view({0, many, many})));
  CHECK_THROWS_WITH(check_residual({"w", {-3}, 0, {}, 1.0}), Contains("negative"));
  CHECK_THROWS_WITH(check_broadcast("w", view(), 2, 2),
                    Contains("root is 2") && Contains("0 to 1"));
  CHECK_THROWS_WITH(check_broadcast("w", view(), -1, 2), Contains("root is -1"));
  CHECK_THROWS_WITH(check_all_gather("w", view({})), Contains("scalar"));
  TensorView cuda = view();
  cuda.device.kind = DeviceKind::cuda;
  CHECK_THROWS_WITH(check_all_reduce("w", cuda, view(), {}),
                    Contains("tensor w") && Contains("cuda:0") && Contains("the host"));
  cuda.data = reinterpret_cast<std::byte*>(storage) + 2;
  CHECK_THROWS_WITH(check_all_gather("w", cuda), Contains("tensor w") && Contains("cuda:0") &&
                                                     Contains("multiple of the 4 bytes"));
  cuda.dtype = DataType::float16;
  CHECK_NOTHROW(check_all_gather("w", cuda));
  TensorView nowhere = view();
  nowhere.device.kind = static_cast<DeviceKind>(7);
  CHECK_THROWS_WITH(check_all_reduce("w", nowhere, nowhere, {}),
                    Contains("device kind 7") && Contains("CUDA (1)"));
  TensorView unknown = view();
  unknown.dtype = static_cast<DataType>(77);
  CHECK_THROWS_WITH(check_all_reduce("w", unknown, unknown, {}), Contains("77"));
}

TEST_CASE("splits that are not the rows for each rank are refused") {
  const auto check = [](std::vector<std::int64_t> splits) {
    check_all_to_all("w", view({6, 2}), splits, 3);
  };
  CHECK_THROWS_WITH(check({3, 3}), Contains("tensor w: 2 splits") && Contains("3 are needed"));
  CHECK_THROWS_WITH(check({1, 2, 2, 1}), Contains("4 splits"));
  CHECK_THROWS_WITH(check({4, -1, 3}), Contains("split for rank 1 is -1"));
  CHECK_THROWS_WITH(check({1, 2, 2}), Contains("add up to 5, not to the 6 rows of shape (6, 2)"));
  CHECK_THROWS_WITH(check({1, 2, 4}), Contains("more than the 6 rows"));
  constexpr auto kLargest = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_WITH(check({kLargest, kLargest, 8}), Contains("more than the 6 rows"));
  CHECK_THROWS_WITH(check_all_to_all("w", view({7, 2}), {}, 3),
                    Contains("(7, 2)") && Contains("equally between 3 ranks; give splits"));
  CHECK_THROWS_WITH(check_all_to_all("w", view({}), {}, 1), Contains("scalar"));
}

TEST_CASE("a reduce-scatter is refused what an all-reduce is, and scalars") {
  ReduceOptions options;
  CHECK_THROWS_WITH(check_reduce_scatter("w", view({}), options), Contains("scalar"));
  CHECK_THROWS_WITH(check_reduce_scatter("w", view({4}, DataType::boolean), options),
                    Contains("bool"));
  options.prescale = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(check_reduce_scatter("w", view(), options), Contains("finite"));
  options = {};
  options.op = ReduceOp::adasum;
  CHECK_THROWS_WITH(check_reduce_scatter("w", view(), options), Contains("Adasum"));
}

TEST_CASE("overlapping input and output are refused, the same memory is not") {
  TensorView shifted = view();
  shifted.data = storage + 1;
  CHECK_THROWS_WITH(check_all_reduce("w", view(), shifted, {}), Contains("overlap"));
  shifted.data = storage + 4;
  CHECK_NOTHROW(check_all_reduce("w", view(), shifted, {}));
}

TEST_CASE("compression is refused outside its bounds") {
  const auto check = [](const AllReduceOptions& options) {
    check_all_reduce("w", view(), view(), options);
  };
  CHECK_THROWS_WITH(check(compressed(0, 1.0)), Contains("rate is 0") && Contains("65536"));
  CHECK_THROWS_WITH(check(compressed(65'537, 1.0)), Contains("rate is 65537"));
  CHECK_THROWS_WITH(check(compressed(10, 0.0)), Contains("beta is 0"));
  CHECK_THROWS_WITH(check(compressed(10, 1.5)), Contains("beta is 1.5"));
  CHECK_THROWS_WITH(check(compressed(10, std::numeric_limits<double>::quiet_NaN())),
                    Contains("beta is nan"));
  CHECK_THROWS_WITH(check(compressed(10, 1.0, -1)), Contains("warmup_steps is -1"));
  AllReduceOptions falling = compressed(10, 1.0);
  falling.compression.ramp_steps = -1;
  CHECK_THROWS_WITH(check(falling), Contains("ramp_steps is -1"));
  AllReduceOptions maximum = compressed(10, 1.0);
  maximum.op = ReduceOp::max;
  CHECK_THROWS_WITH(check(maximum), Contains("not max"));
  const TensorView doubles = view({4}, DataType::float64);
  CHECK_THROWS_WITH(check_all_reduce("w", doubles, doubles, compressed(10, 1.0)),
                    Contains("float64"));
}

TEST_CASE("bool is neither averaged nor scaled") {
  const TensorView flags = view({4}, DataType::boolean);
  AllReduceOptions options;
  CHECK_THROWS_WITH(check_all_reduce("w", flags, flags, options), Contains("bool"));
  options.op = ReduceOp::sum;
  CHECK_NOTHROW(check_all_reduce("w", flags, flags, options));
  options.prescale = 2.0;
  CHECK_THROWS_AS(check_all_reduce("w", flags, flags, options), Error);
}

TEST_CASE("an op that is none is refused with the list of ops") {
  AllReduceOptions options;
  options.op = static_cast<ReduceOp>(6);
  CHECK_THROWS_WITH(check_all_reduce("w", view(), view(), options),
                    Contains("op 6") && Contains("average (0)"));
}
