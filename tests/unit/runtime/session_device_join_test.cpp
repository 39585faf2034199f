// Ranks that are out of data while others go on with tensors of their accelerators.
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/device_world.hpp"
#include "tests/support/ranks.hpp"
#include "tests/support/seeds.hpp"
#include "tests/unit/device/nccl_world.hpp"

using namespace scalecom;
using Catch::Contains;
using test::DeviceTensor;
using test::DeviceWorld;
using test::expect_ok;
using test::SessionWorld;

namespace {

constexpr int kSize = 3;
using Values = std::vector<float>;

AllReduceOptions all_reduce_options(bool is_compressed) {
  AllReduceOptions options;
  options.op = is_compressed ? ReduceOp::sum : ReduceOp::average;
  if (is_compressed) {
    options.compression.mode = CompressionMode::cyclic;
    options.compression.rate = 7;
    options.compression.warmup_steps = 0;
  }
  return options;
}

// Kinds 0 to 2 work in place, the others give a result of the ticket's.
constexpr int kKinds = 6;
bool is_in_place(int kind) { return kind < 3; }

Ticket start(Session& session, int kind, const TensorView& view) {
  ReduceOptions sum;
  sum.op = ReduceOp::sum;
  switch (kind) {
    case 0: return session.all_reduce("dense", view, view, all_reduce_options(false));
    case 1: return session.all_reduce("compressed", view, view, all_reduce_options(true));
    case 2: return session.broadcast("copied", view, kSize - 1);
    case 3: return session.all_gather("gathered", view);
    case 4: return session.reduce_scatter("scattered", view, sum);
    default: {
      const std::int64_t rows = view.shape[0];
      return session.all_to_all("exchanged", view, {0, 1, rows - 1});
    }
  }
}

// An all-gather's and an all-to-all's are of other lengths on each rank.
Values input_of(int kind, int rank, int batch) {
  Values values(static_cast<std::size_t>(kind == 3 || kind == 5 ? 40 + rank : 300));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((i * 37 + static_cast<std::size_t>(11 * rank + batch)) % 64);
  }
  return values;
}

Values run_on_host(Session& session, int kind, Values values) {
  const Ticket ticket = start(session, kind, test::view_of(values));
  expect_ok(ticket.wait());
  if (is_in_place(kind)) return values;
  const auto* output = static_cast<const float*>(ticket.output().data);
  return {output, output + ticket.output().count()};
}

Values run_on_device(Session& session, test::FakeAccelerator& accelerator, int kind,
                     const Values& values) {
  DeviceTensor tensor(accelerator, DataType::float32, {static_cast<std::int64_t>(values.size())});
  tensor.write(std::as_bytes(std::span(values)));
  const Ticket ticket = start(session, kind, tensor.view());
  expect_ok(ticket.wait());
  std::optional<DeviceTensor> output;
  if (!is_in_place(kind)) {
    output.emplace(accelerator, DataType::float32, ticket.output().shape);
    ticket.copy_output(output->view().data, output->stream());
  }
  const std::vector<std::byte> bytes = (output ? *output : tensor).read(ticket);
  Values result(bytes.size() / sizeof(float));
  std::ranges::copy(bytes, std::as_writable_bytes(std::span(result)).begin());
  return result;
}

// Batches of every kind; a rank joins when it is out of them. Rank r has r more than rank 0.
template <class Run>
std::vector<Values> run_uneven(Session& session, int least, int device, const Run& run) {
  const int rank = session.topology().rank;
  std::vector<Values> results;
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (int batch = 0; batch < least + 2 * rank; ++batch) {
      for (int kind = 0; kind < kKinds; ++kind) {
        results.push_back(run(kind, input_of(kind, rank, 10 * epoch + batch)));
      }
    }
    expect_ok(session.join(device).wait());
  }
  return results;
}

}  // namespace

TEST_CASE("a rank that has joined takes part with zeros on its accelerator, as on the host") {
  for (const std::uint64_t seed : test::choose_seeds(6)) {
    CAPTURE(seed);
    test::NcclWorld nccl;
    DeviceWorld::LoadNccl load_nccl;
    if (seed % 2 == 0) load_nccl = [&](auto& accelerator) { return nccl.make_api(accelerator); };
    // A rank that has had no tensor yet is told its device.
    const int least = seed % 3 == 0 ? 0 : 1;
    SessionWorld hosts(kSize);
    DeviceWorld devices(kSize, seed, load_nccl);
    std::vector<std::string> found(kSize);
    test::run_ranks(kSize, [&](int rank) {
      const auto on_host = run_uneven(hosts[rank], least, -1, [&](int kind, Values values) {
        return run_on_host(hosts[rank], kind, std::move(values));
      });
      const auto on_device = run_uneven(
          devices[rank], least, least == 0 ? 0 : -1, [&](int kind, const Values& values) {
            return run_on_device(devices[rank], devices.accelerator(rank), kind, values);
          });
      std::string& differs = found[static_cast<std::size_t>(rank)];
      for (std::size_t i = 0; i < on_host.size(); ++i) {
        if (on_device.at(i) != on_host[i] && differs.empty()) {
          differs = "kind " + std::to_string(i % kKinds) + " of call " + std::to_string(i);
        }
      }
      const bool has_residual = least > 0 || rank > 0;
      if (has_residual && devices[rank].residual("compressed").values !=
                              hosts[rank].residual("compressed").values) {
        differs += " residual";
      }
    });
    for (const std::string& differs : found) CHECK(differs == "");
  }
}

TEST_CASE("an accelerator's tensor fails while a rank without one has joined") {
  DeviceWorld devices(2, 3);
  const Ticket joined = devices[1].join();
  DeviceTensor tensor(devices.accelerator(0), DataType::float32, {3});
  const Status status = devices[0].all_reduce("w", tensor.view(), tensor.view()).wait();
  CHECK(status.code() == StatusCode::mismatch);
  CHECK_THAT(status.message(), Contains("tensor w: it is on a CUDA device") &&
                                   Contains("Give it a device, by join(device)"));
  CHECK(devices[0].join().wait().is_ok());
  CHECK(joined.wait().is_ok());
}
