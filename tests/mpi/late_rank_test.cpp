#include <array>
#include <chrono>
#include <optional>

#include "collective/message_collectives.hpp"
#include "mpi_plugin/make_mpi_backend.hpp"
#include "scalecom/status.hpp"
#include "tests/mpi/world.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;

namespace {

constexpr int kToldTag = 7;

// Calls the wait off the third time it is asked.
class CallOff final : public Interrupt {
 public:
  void check() override {
    if (++checks_ == 3) throw Error(StatusCode::rank_lost, "called off");
  }

 private:
  int checks_ = 0;
};

std::span<std::byte> bytes_of(float& value) {
  return std::as_writable_bytes(std::span<float>(&value, 1));
}

std::optional<StatusCode> code_of_sum(Collectives& collectives, float& value,
                                      const WaitContext& context) {
  try {
    collectives.all_reduce(bytes_of(value), DataType::float32, ReduceOp::sum, context);
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

WaitContext patience() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

// What a wait that rank 0 holds up ends with: by its deadline, or by an interrupt long before it.
struct GiveUp {
  explicit GiveUp(bool is_called_off)
      : context{Deadline::after(is_called_off ? std::chrono::milliseconds(60'000)
                                              : std::chrono::milliseconds(20)),
                is_called_off ? &call_off : nullptr},
        code(is_called_off ? StatusCode::rank_lost : StatusCode::timed_out) {}
  CallOff call_off;
  WaitContext context;
  StatusCode code;
};

}  // namespace

TEST_CASE("MPI's collective ends at its deadline or interrupt while rank 0 is late") {
  // Given up by the others, the operation still completes inside MPI once rank 0 comes; what it
  // works on has to live until then.
  static std::array<float, 2> values;
  const bool is_called_off = GENERATE(false, true);
  float& value = values[is_called_off ? 1 : 0];
  value = 1.0f;
  MpiBackend& backend = test::mpi_world();
  const int size = backend.bootstrap().size();
  if (size == 1) return;
  const auto transport = backend.make_transport();
  const auto collectives = backend.make_collectives();
  std::byte told{};
  if (transport->rank() > 0) {
    GiveUp give_up(is_called_off);
    CHECK(code_of_sum(*collectives, value, give_up.context) == give_up.code);
    TransportRequest request = transport->post_send({&told, 1}, 0, kToldTag);
    wait(*transport, request, patience(), "a test");
  } else {
    for (int peer = 1; peer < size; ++peer) {
      TransportRequest request = transport->post_receive({&told, 1}, peer, kToldTag);
      wait(*transport, request, patience(), "a test");
    }
    CHECK(code_of_sum(*collectives, value, patience()) == std::nullopt);
    CHECK(value == static_cast<float>(size));
  }
  // Its order behind the late operation makes every rank see that one through.
  backend.bootstrap().exchange({}, test::kLimit);
}

TEST_CASE("our collectives over MPI end at their deadline or interrupt when rank 0 never comes") {
  const bool is_called_off = GENERATE(false, true);
  // Messages stay behind that nobody takes: not on the communicator of the other tests.
  const std::unique_ptr<MpiBackend> backend = make_mpi_backend(test::kLimit);
  if (backend->bootstrap().size() == 1) return;
  const auto transport = backend->make_transport();
  if (transport->rank() > 0) {
    MessageCollectives collectives(*transport);
    GiveUp give_up(is_called_off);
    float value = 1.0f;
    CHECK(code_of_sum(collectives, value, give_up.context) == give_up.code);
    transport->cancel_all();
    CHECK(code_of_sum(collectives, value, patience()) == StatusCode::internal);
  }
  backend->bootstrap().exchange({}, test::kLimit);
}
