// What the handlers of scalecom.jax ask of the C interface, and what they give back to XLA. Both
// are stood in for here: nothing runs.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "bindings/jax_ffi/xla_ffi.hpp"
#include "scalecom/c_api.h"
#include "tests/support/catch.hpp"

using namespace scalecom::xla;

namespace scalecom::xla {
struct Error {
  int code = 0;
  std::string message;
};
}  // namespace scalecom::xla

struct scalecom_ticket {
  std::string name;
  std::int64_t rows = 0;
};

extern "C" {
Error* scalecom_jax_all_reduce(Call* call);
Error* scalecom_jax_cuda_all_reduce(Call* call);
Error* scalecom_jax_cuda_all_gather(Call* call);
Error* scalecom_jax_cuda_broadcast(Call* call);
}

namespace {

int stream_of_xla = 0;
constexpr int kDevice = 3;

/// What has been called, in its order, and what is to go wrong.
struct Stand {
  std::vector<std::string> calls;
  std::string failing;  ///< of a ticket's name: its wait fails
  int submits_left = 1 << 20;
  bool has_stream = true;

  void note(const std::string& call) { calls.push_back(call); }
};
Stand stand;

std::string place_of(const scalecom_tensor& tensor) {
  return (tensor.device_kind == 1 ? "cuda:" : "host:") + std::to_string(tensor.device_index) +
         (tensor.stream == &stream_of_xla ? " on XLA's stream"
          : tensor.stream == nullptr      ? ""
                                          : " ?");
}

int submit(const char* kind, const char* name, const scalecom_tensor& tensor,
           scalecom_ticket** ticket) {
  if (stand.submits_left-- == 0) return 1;
  stand.note(std::string(kind) + " " + name + " " + place_of(tensor));
  *ticket = new scalecom_ticket{name, tensor.shape[0]};
  return 0;
}

}  // namespace

const char* scalecom_last_error(void) { return "it went wrong"; }
int scalecom_process_set_use(int32_t) { return 0; }
int scalecom_all_reduce_group(const char* const* names, const scalecom_tensor* inputs,
                              const scalecom_tensor* outputs, int64_t, const scalecom_reduction*,
                              scalecom_ticket** ticket) {
  return place_of(inputs[0]) == place_of(outputs[0])
             ? submit("reduce", names[0], outputs[0], ticket)
             : 13;
}
int scalecom_all_gather_group(const char* const* names, const scalecom_tensor* inputs,
                              int64_t count, scalecom_ticket** tickets) {
  if (stand.submits_left < count) return 1;
  for (int64_t i = 0; i < count; ++i) submit("gather", names[i], inputs[i], &tickets[i]);
  return 0;
}
int scalecom_reduce_scatter_group(const char* const*, const scalecom_tensor*, int64_t, int32_t,
                                  double, double, scalecom_ticket**) {
  return 13;
}
int scalecom_all_to_all(const char*, const scalecom_tensor*, const int64_t*, int32_t,
                        scalecom_ticket**) {
  return 13;
}
int scalecom_broadcast(const char* name, const scalecom_tensor* tensor, int32_t,
                       scalecom_ticket** ticket) {
  return submit("broadcast", name, *tensor, ticket);
}
int scalecom_barrier(scalecom_ticket**) { return 13; }
int scalecom_ticket_wait(const scalecom_ticket* ticket, double) {
  stand.note("wait " + ticket->name);
  return ticket->name == stand.failing ? 3 : 0;
}
int scalecom_ticket_make_wait(const scalecom_ticket* ticket, void* stream) {
  stand.note("follow " + ticket->name + (stream == &stream_of_xla ? " on XLA's stream" : ""));
  return 0;
}
int scalecom_ticket_output(const scalecom_ticket* ticket, scalecom_tensor* output) {
  *output = {nullptr, &ticket->rows, 1, 6, 1, kDevice, nullptr};
  return 0;
}
int scalecom_ticket_copy_output(const scalecom_ticket* ticket, void*, void* stream) {
  stand.note("copy " + ticket->name + (stream == &stream_of_xla ? " on XLA's stream" : ""));
  return 0;
}
int scalecom_ticket_received_splits(const scalecom_ticket*, int64_t*, int32_t) { return 13; }
void scalecom_ticket_release(scalecom_ticket* ticket) {
  if (ticket == nullptr) return;
  stand.note("release " + ticket->name);
  delete ticket;
}

namespace {

Error* create_error(ErrorArguments* arguments) {
  return new Error{arguments->code, arguments->message};
}

Error* get_stream(StreamArguments* arguments) {
  if (!stand.has_stream) return new Error{12, "no stream here"};
  arguments->stream = &stream_of_xla;
  return nullptr;
}

Error* get_device(DeviceArguments* arguments) {
  arguments->device = kDevice;
  return nullptr;
}

/// A call with a token and the tensors "a" and "b" of two float32 each.
class Frame {
 public:
  explicit Frame(bool is_in_place = false) {
    for (int place = 0; place < 3; ++place) {
      const bool is_token = place == 0;
      const int type = static_cast<int>(is_token ? ElementType::token : ElementType::float32);
      float* const input = is_token ? nullptr : inputs_[place - 1];
      float* const output = is_token ? nullptr : is_in_place ? input : outputs_[place - 1];
      arguments_[place] = {sizeof(Buffer), nullptr, type, input, is_token ? 0 : 1, &extent_};
      results_[place] = {sizeof(Buffer), nullptr, type, output, is_token ? 0 : 1, &extent_};
      argument_pointers_[place] = &arguments_[place];
      result_pointers_[place] = &results_[place];
    }
    add("names", ElementType::uint8, names_, sizeof names_ - 1);
    add("process_set", ElementType::int64, &zero_, 1);
    add("root", ElementType::int64, &zero_, 1);
    add("counts", ElementType::int64, ones_, 2);
    add("reductions", ElementType::uint8, reductions_, sizeof reductions_);
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
      types_.push_back(kArray);
      keys_.push_back(&texts_[i]);
      values_.push_back(&arrays_[i]);
    }
    api_ = {sizeof(Api), nullptr,      {sizeof(Version), nullptr, 0, 3},
            nullptr,     create_error, {},
            nullptr,     get_stream,   {},
            get_device};
    call_ = {sizeof(Call),
             nullptr,
             &api_,
             nullptr,
             3,
             {sizeof(Buffers), nullptr, 3, kinds_, argument_pointers_},
             {sizeof(Buffers), nullptr, 3, kinds_, result_pointers_},
             {sizeof(Attributes), nullptr, static_cast<std::int64_t>(arrays_.size()), types_.data(),
              keys_.data(), values_.data()},
             nullptr};
  }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  /// The code and message of what the handler gives back; 0 where it is nothing.
  Error run(Error* (*handler)(Call*)) {
    Error* const given = handler(&call_);
    if (given == nullptr) return {};
    const Error error = *given;
    delete given;
    return error;
  }

  Api& api() { return api_; }

 private:
  void add(const char* key, ElementType type, void* data, std::size_t size) {
    texts_.push_back({key, std::strlen(key)});
    arrays_.push_back({static_cast<int>(type), size, data});
  }

  std::int64_t extent_ = 2;
  std::int64_t zero_ = 0;
  std::int64_t ones_[2] = {1, 1};
  float inputs_[2][2] = {};
  float outputs_[2][2] = {};
  char names_[5] = "a\0b\0";
  scalecom_reduction reductions_[2] = {};
  Buffer arguments_[3] = {};
  Buffer results_[3] = {};
  void* argument_pointers_[3] = {};
  void* result_pointers_[3] = {};
  int kinds_[3] = {kBuffer, kBuffer, kBuffer};
  std::vector<Text> texts_;
  std::vector<Array> arrays_;
  std::vector<int> types_;
  std::vector<Text*> keys_;
  std::vector<void*> values_;
  Api api_{};
  Call call_{};
};

}  // namespace

TEST_CASE("a call for the host is submitted, waited for and released, on no stream") {
  stand = {};
  CHECK(Frame().run(scalecom_jax_all_reduce).code == 0);
  CHECK(stand.calls == std::vector<std::string>{"reduce a host:0", "reduce b host:0", "wait a",
                                                "follow a", "wait b", "follow b", "release a",
                                                "release b"});
}

TEST_CASE("a call for CUDA is one on XLA's stream and device, which then waits for the results") {
  stand = {};
  CHECK(Frame().run(scalecom_jax_cuda_all_reduce).code == 0);
  CHECK(stand.calls == std::vector<std::string>{
                           "reduce a cuda:3 on XLA's stream", "reduce b cuda:3 on XLA's stream",
                           "wait a", "follow a on XLA's stream", "wait b",
                           "follow b on XLA's stream", "release a", "release b"});
}

TEST_CASE("results that tickets own are copied in the order of XLA's stream") {
  stand = {};
  CHECK(Frame().run(scalecom_jax_cuda_all_gather).code == 0);
  REQUIRE(stand.calls.size() == 10);
  CHECK(stand.calls[6] == "copy a on XLA's stream");
  CHECK(stand.calls[7] == "copy b on XLA's stream");
  CHECK(stand.calls[8] == "release a");
}

TEST_CASE("a broadcast is in its argument's memory, or is refused before it is submitted") {
  stand = {};
  CHECK(Frame(true).run(scalecom_jax_cuda_broadcast).code == 0);
  CHECK(stand.calls.front() == "broadcast a cuda:3 on XLA's stream");
  stand = {};
  const Error refused = Frame().run(scalecom_jax_cuda_broadcast);
  CHECK(refused.code == static_cast<int>(ErrorCode::internal));
  CHECK(refused.message.find("another memory") != std::string::npos);
  CHECK(stand.calls.empty());
}

TEST_CASE("the stream waits for what has failed and for what is behind it") {
  stand = {};
  stand.failing = "a";
  const Error failed = Frame().run(scalecom_jax_cuda_all_reduce);
  CHECK(failed.message == "it went wrong");
  CHECK(stand.calls == std::vector<std::string>{
                           "reduce a cuda:3 on XLA's stream", "reduce b cuda:3 on XLA's stream",
                           "wait a", "follow a on XLA's stream", "wait b",
                           "follow b on XLA's stream", "release a", "release b"});
}

TEST_CASE("the stream waits for what was submitted before a submit that is refused") {
  stand = {};
  stand.submits_left = 1;
  CHECK(Frame().run(scalecom_jax_cuda_all_reduce).message == "it went wrong");
  CHECK(stand.calls == std::vector<std::string>{"reduce a cuda:3 on XLA's stream", "wait a",
                                                "follow a on XLA's stream", "release a"});
}

TEST_CASE("XLA's own error is given back, and nothing is submitted") {
  stand = {};
  stand.has_stream = false;
  const Error given = Frame().run(scalecom_jax_cuda_all_reduce);
  CHECK(given.code == 12);
  CHECK(given.message == "no stream here");
  CHECK(stand.calls.empty());
}

TEST_CASE(
    "a table of functions without the device's number is refused for CUDA, not for the host") {
  stand = {};
  Frame frame;
  frame.api().struct_size = offsetof(Api, get_device);
  CHECK(frame.run(scalecom_jax_all_reduce).code == 0);
  CHECK(frame.run(scalecom_jax_cuda_all_reduce).code == static_cast<int>(ErrorCode::unavailable));
}
