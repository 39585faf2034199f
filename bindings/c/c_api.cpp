#include "scalecom/c_api.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c/calls.hpp"
#include "bindings/c/dlpack.hpp"
#include "bindings/c/json_text.hpp"
#include "runtime/arguments.hpp"
#include "runtime/info.hpp"
#include "scalecom/scalecom.hpp"

using scalecom::Error;
using scalecom::Session;
using scalecom::Status;
using scalecom::StatusCode;
using scalecom::c::check_list;
using scalecom::c::deref;
using scalecom::c::fail;
using scalecom::c::guarded;
using scalecom::c::last_failure;
using scalecom::c::report;
using scalecom::c::sessions;

struct scalecom_ticket {
  scalecom::Ticket ticket;
  mutable scalecom::TensorView output;  // What scalecom_ticket_output() lends.
};

namespace {

std::string to_name(const char* name) {
  if (name == nullptr) throw Error(StatusCode::invalid_argument, "name is NULL");
  return name;
}

scalecom::Shape to_shape(const int64_t* shape, int32_t dimensions) {
  if (dimensions < 0 || (dimensions > 0 && shape == nullptr)) {
    throw Error(StatusCode::invalid_argument,
                "shape is NULL or has " + std::to_string(dimensions) + " dimensions");
  }
  return scalecom::Shape(shape, shape + dimensions);
}

scalecom::TensorView to_view(const scalecom_tensor* tensor, const char* argument) {
  const scalecom_tensor& from = deref(tensor, argument);
  return {from.data,
          static_cast<scalecom::DataType>(from.dtype),
          to_shape(from.shape, from.dimensions),
          {static_cast<scalecom::DeviceKind>(from.device_kind), from.device_index},
          from.stream};
}

scalecom::ReduceOptions to_options(int32_t op, double prescale, double postscale) {
  scalecom::ReduceOptions options;
  options.op = static_cast<scalecom::ReduceOp>(op);
  options.prescale = prescale;
  options.postscale = postscale;
  return options;
}

scalecom::Compression to_compression(const scalecom_compression* compression) {
  const scalecom_compression& from = deref(compression, "compression");
  const auto mode = static_cast<scalecom::CompressionMode>(from.mode);
  const auto values = static_cast<scalecom::DataType>(from.values);
  return {mode, from.rate, from.beta, from.warmup_steps, values, from.guard, from.ramp_steps};
}

scalecom::AllReduceOptions to_options(int32_t op, double prescale, double postscale,
                                      const scalecom_compression* compression, int32_t priority) {
  scalecom::AllReduceOptions options{to_options(op, prescale, postscale), {}, priority};
  if (compression != nullptr) options.compression = to_compression(compression);
  return options;
}

scalecom::AllReduceOptions to_options(const scalecom_reduction* reduction) {
  const scalecom_reduction& from = deref(reduction, "reduction");
  return to_options(from.op, from.prescale, from.postscale, &from.compression, from.priority);
}

// What a Python object is not, if it cannot be submitted as it is.
class NotPlain {};

scalecom::TensorView to_view(const scalecom::dlpack::ExchangeApi& exchange, void* object) {
  auto view = scalecom::dlpack::view_of(exchange, &deref(static_cast<char*>(object), "tensor"));
  if (!view) throw NotPlain();
  return *std::move(view);
}

const scalecom::dlpack::ExchangeApi& to_exchange(const void* exchange) {
  return deref(static_cast<const scalecom::dlpack::ExchangeApi*>(exchange), "exchange");
}

// `make` submits. The place has a ticket, or NULL where it fails.
template <class Make>
int submit(scalecom_ticket** ticket, const Make& make) noexcept {
  return guarded([&] {
    deref(ticket, "ticket") = nullptr;
    *ticket = new scalecom_ticket{make(), {}};
  });
}

std::vector<scalecom::NamedInput> to_inputs(const char* const* names, const scalecom_tensor* inputs,
                                            int64_t count) {
  check_list(count, names == nullptr || inputs == nullptr, "names or inputs");
  std::vector<scalecom::NamedInput> result;
  result.reserve(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    result.push_back({to_name(names[i]), to_view(&inputs[i], "input")});
  }
  return result;
}

// The places are set when all tickets are there.
void give_tickets(scalecom_ticket** places, std::vector<scalecom::Ticket> tickets) {
  std::vector<std::unique_ptr<scalecom_ticket>> made;
  for (scalecom::Ticket& ticket : tickets) {
    made.push_back(std::make_unique<scalecom_ticket>(std::move(ticket), scalecom::TensorView{}));
  }
  for (std::unique_ptr<scalecom_ticket>& ticket : made) *places++ = ticket.release();
}

template <class Make>
scalecom_ticket* submit_objects(const Make& make) noexcept {
  scalecom_ticket* ticket = nullptr;
  guarded([&] {
    try {
      ticket = new scalecom_ticket{make(), {}};
    } catch (const NotPlain&) {
      fail(SCALECOM_NOT_PLAIN, "a tensor cannot be submitted as it is");
    }
  });
  return ticket;
}

const scalecom::Ticket& completed(const scalecom_ticket* ticket) {
  const scalecom::Ticket& from = deref(ticket, "ticket").ticket;
  if (!from.is_ready()) {
    throw Error(StatusCode::invalid_argument, "the ticket has not completed; wait for it first");
  }
  return from;
}

// Freed by scalecom_free().
void give_text(char** json, const std::string& text) {
  char*& place = deref(json, "json");
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  place = copy;
}

// What milliseconds cannot count becomes the longest that they can.
std::chrono::milliseconds to_milliseconds(double seconds) {
  using std::chrono::milliseconds;
  const double count = seconds * 1e3;
  constexpr auto kLongest = milliseconds::max();
  return count < static_cast<double>(kLongest.count())
             ? milliseconds(static_cast<milliseconds::rep>(count))
             : kLongest;
}

}  // namespace

const char* scalecom_version(void) { return scalecom::kVersion; }

const char* scalecom_last_error(void) { return last_failure().message.c_str(); }

int scalecom_last_code(void) { return last_failure().code; }

void scalecom_free(void* pointer) { std::free(pointer); }

int scalecom_offer_nccl(const char* path) {
  return guarded([&] { sessions().offer_nccl(path != nullptr ? path : ""); });
}

int scalecom_init(void) {
  return guarded([] { sessions().connect(); });
}

int scalecom_shutdown(void) {
  return guarded([] { sessions().disconnect(); });
}

int scalecom_is_initialized(void) { return sessions().find() != nullptr ? 1 : 0; }

int scalecom_session_status(void) {
  Status status;
  const int code = guarded([&] { status = sessions().get()->status(); });
  return code != 0 ? code : report(status);
}

int scalecom_get_topology(scalecom_topology* topology) {
  return guarded([&] {
    const auto session = sessions().get();
    const scalecom::Topology& from = session->topology();
    deref(topology, "topology") = {from.rank,
                                   from.size,
                                   from.local_rank,
                                   from.local_size,
                                   from.cross_rank,
                                   from.cross_size,
                                   from.is_homogeneous ? 1 : 0};
  });
}

int scalecom_all_reduce(const char* name, const scalecom_tensor* input,
                        const scalecom_tensor* output, int32_t op, double prescale,
                        double postscale, const scalecom_compression* compression, int32_t priority,
                        scalecom_ticket** ticket) {
  return submit(ticket, [&] {
    return sessions().get()->all_reduce(to_name(name), to_view(input, "input"),
                                        to_view(output, "output"),
                                        to_options(op, prescale, postscale, compression, priority));
  });
}

int scalecom_all_reduce_group(const char* const* names, const scalecom_tensor* inputs,
                              const scalecom_tensor* outputs, int64_t count,
                              const scalecom_reduction* reduction, scalecom_ticket** ticket) {
  return submit(ticket, [&] {
    check_list(count, names == nullptr || inputs == nullptr || outputs == nullptr,
               "names, inputs or outputs");
    std::vector<scalecom::GroupMember> members;
    members.reserve(static_cast<std::size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      members.push_back(
          {to_name(names[i]), to_view(&inputs[i], "input"), to_view(&outputs[i], "output")});
    }
    return sessions().get()->all_reduce_group(std::move(members), to_options(reduction));
  });
}

int scalecom_dlpack_is_usable(const void* exchange) {
  const auto* api = static_cast<const scalecom::dlpack::ExchangeApi*>(exchange);
  return api != nullptr && api->major_version == scalecom::dlpack::kMajorVersion &&
                 api->borrow != nullptr
             ? 1
             : 0;
}

scalecom_ticket* scalecom_dlpack_all_reduce(const void* exchange, const char* name, void* input,
                                            void* output, const scalecom_reduction* reduction) {
  return submit_objects([&] {
    scalecom::TensorView from = to_view(to_exchange(exchange), input);
    scalecom::TensorView to = output == nullptr ? from : to_view(to_exchange(exchange), output);
    return sessions().get()->all_reduce(to_name(name), std::move(from), std::move(to),
                                        to_options(reduction));
  });
}

scalecom_ticket* scalecom_dlpack_all_reduce_group(const void* exchange, const char* names,
                                                  void* const* inputs, void* const* outputs,
                                                  int64_t count,
                                                  const scalecom_reduction* const* reductions) {
  return submit_objects([&] {
    check_list(count, names == nullptr || inputs == nullptr || reductions == nullptr,
               "names, inputs or reductions");
    std::vector<scalecom::GroupMember> members;
    members.reserve(static_cast<std::size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      scalecom::TensorView from = to_view(to_exchange(exchange), inputs[i]);
      scalecom::TensorView to =
          outputs == nullptr ? from : to_view(to_exchange(exchange), outputs[i]);
      members.push_back({names, std::move(from), std::move(to), to_options(reductions[i])});
      names += members.back().name.size() + 1;
    }
    return sessions().get()->all_reduce_group(std::move(members));
  });
}

scalecom_ticket* scalecom_dlpack_broadcast_group(const void* exchange, const char* names,
                                                 void* const* tensors, int64_t count,
                                                 int32_t root) {
  return submit_objects([&] {
    check_list(count, names == nullptr || tensors == nullptr, "names or tensors");
    std::vector<scalecom::NamedInput> members;
    for (int64_t i = 0; i < count; ++i) {
      members.push_back({names, to_view(to_exchange(exchange), tensors[i])});
      names += members.back().name.size() + 1;
    }
    return sessions().get()->broadcast_group(members, root);
  });
}

int scalecom_all_gather(const char* name, const scalecom_tensor* input, scalecom_ticket** ticket) {
  return submit(
      ticket, [&] { return sessions().get()->all_gather(to_name(name), to_view(input, "input")); });
}

int scalecom_all_gather_group(const char* const* names, const scalecom_tensor* inputs,
                              int64_t count, scalecom_ticket** tickets) {
  return guarded([&] {
    if (count > 0) deref(tickets, "tickets");
    give_tickets(tickets, sessions().get()->all_gather_group(to_inputs(names, inputs, count)));
  });
}

int scalecom_reduce_scatter(const char* name, const scalecom_tensor* input, int32_t op,
                            double prescale, double postscale, scalecom_ticket** ticket) {
  return submit(ticket, [&] {
    return sessions().get()->reduce_scatter(to_name(name), to_view(input, "input"),
                                            to_options(op, prescale, postscale));
  });
}

int scalecom_reduce_scatter_group(const char* const* names, const scalecom_tensor* inputs,
                                  int64_t count, int32_t op, double prescale, double postscale,
                                  scalecom_ticket** tickets) {
  return guarded([&] {
    if (count > 0) deref(tickets, "tickets");
    give_tickets(tickets,
                 sessions().get()->reduce_scatter_group(to_inputs(names, inputs, count),
                                                        to_options(op, prescale, postscale)));
  });
}

int scalecom_all_to_all(const char* name, const scalecom_tensor* input, const int64_t* splits,
                        int32_t count, scalecom_ticket** ticket) {
  return submit(ticket, [&] {
    check_list(count, splits == nullptr, "splits");
    return sessions().get()->all_to_all(to_name(name), to_view(input, "input"),
                                        std::vector<std::int64_t>(splits, splits + count));
  });
}

int scalecom_broadcast(const char* name, const scalecom_tensor* tensor, int32_t root,
                       scalecom_ticket** ticket) {
  return submit(ticket, [&] {
    return sessions().get()->broadcast(to_name(name), to_view(tensor, "tensor"), root);
  });
}

int scalecom_barrier(scalecom_ticket** ticket) {
  return submit(ticket, [&] { return sessions().get()->barrier(); });
}

int scalecom_join(int32_t device, scalecom_ticket** ticket) {
  return submit(ticket, [&] { return sessions().get()->join(device); });
}

int scalecom_ticket_is_ready(const scalecom_ticket* ticket) {
  return ticket != nullptr && ticket->ticket.is_ready() ? 1 : 0;
}

int scalecom_ticket_wait(const scalecom_ticket* ticket, double timeout_s) {
  Status status;
  const int code = guarded([&] {
    const scalecom::Ticket& from = deref(ticket, "ticket").ticket;
    status = timeout_s < 0 ? from.wait() : from.wait_for(to_milliseconds(timeout_s));
  });
  return code != 0 ? code : report(status);
}

int scalecom_ticket_on_complete(const scalecom_ticket* ticket, void (*callback)(void* context),
                                void* context) {
  return guarded([&] {
    if (callback == nullptr) throw Error(StatusCode::invalid_argument, "callback is NULL");
    deref(ticket, "ticket").ticket.on_complete([callback, context] { callback(context); });
  });
}

int scalecom_ticket_received_splits(const scalecom_ticket* ticket, int64_t* splits, int32_t count) {
  return guarded([&] {
    const std::vector<std::int64_t> received = completed(ticket).received_splits();
    if (static_cast<std::size_t>(count) != received.size()) {
      throw Error(StatusCode::invalid_argument, "the operation received " +
                                                    std::to_string(received.size()) +
                                                    " splits, not " + std::to_string(count));
    }
    if (count > 0) std::copy(received.begin(), received.end(), &deref(splits, "splits"));
  });
}

int scalecom_ticket_output(const scalecom_ticket* ticket, scalecom_tensor* output) {
  return guarded([&] {
    scalecom::TensorView result = completed(ticket).output();
    const scalecom::TensorView& from = ticket->output = std::move(result);
    const auto dimensions = static_cast<int32_t>(from.shape.size());
    const auto kind = static_cast<int32_t>(from.device.kind);
    deref(output, "output") = {
        from.data, from.shape.data(), dimensions, static_cast<int32_t>(from.dtype),
        kind,      from.device.index, from.stream};
  });
}

int scalecom_ticket_make_wait(const scalecom_ticket* ticket, void* stream) {
  return guarded([&] { completed(ticket).make_wait(stream); });
}

int scalecom_ticket_copy_output(const scalecom_ticket* ticket, void* destination, void* stream) {
  return guarded([&] {
    const scalecom::Ticket& from = completed(ticket);
    if (from.output().bytes() > 0) deref(static_cast<char*>(destination), "destination");
    from.copy_output(destination, stream);
  });
}

void scalecom_ticket_release(scalecom_ticket* ticket) { delete ticket; }

int scalecom_residuals(char** json) {
  return guarded([&] { give_text(json, scalecom::to_json(sessions().get()->residuals())); });
}

int scalecom_residual_get(const char* name, float* values, int64_t count) {
  return guarded([&] {
    const scalecom::Residual residual = sessions().get()->residual(to_name(name));
    if (const auto size = std::to_string(residual.values.size()); size != std::to_string(count)) {
      throw Error(StatusCode::invalid_argument, "the residual of " + residual.name + " has " +
                                                    size + " elements, not " +
                                                    std::to_string(count));
    }
    if (count > 0) std::ranges::copy(residual.values, &deref(values, "values"));
  });
}

int scalecom_residual_restore(const char* name, const int64_t* shape, int32_t dimensions,
                              const float* values, int64_t step, double beta) {
  return guarded([&] {
    scalecom::Residual residual{to_name(name), to_shape(shape, dimensions), step, {}, beta};
    scalecom::check_shape(residual.name, residual.shape, scalecom::DataType::float32);
    const int64_t count = scalecom::count_of(residual.shape);
    if (values != nullptr) residual.values.assign(values, values + count);
    sessions().get()->restore_residuals({std::move(residual)});
  });
}

int scalecom_compression_stats(char** json) {
  return guarded(
      [&] { give_text(json, scalecom::to_json(sessions().get()->compression_health())); });
}

int scalecom_explain_compression(int64_t count, int32_t dtype, int32_t device_kind,
                                 const scalecom_compression* compression, char** json) {
  return guarded([&] {
    const auto explanation = sessions().get()->explain_compression(
        count, static_cast<scalecom::DataType>(dtype), to_compression(compression),
        static_cast<scalecom::DeviceKind>(device_kind));
    give_text(json, scalecom::to_json(explanation));
  });
}

int scalecom_start_timeline(const char* path, int mark_cycles) {
  return guarded(
      [&] { sessions().of_all_ranks()->start_timeline(&deref(path, "path"), mark_cycles != 0); });
}

int scalecom_stop_timeline(void) {
  return guarded([] {
    if (const auto session = sessions().find()) session->stop_timeline();
  });
}

int scalecom_stats(char** json) {
  return guarded([&] { give_text(json, scalecom::to_json(sessions().get()->stats())); });
}

int scalecom_info(char** json) {
  return guarded([&] {
    const auto session = sessions().find();
    std::optional<scalecom::SessionReport> report;
    if (session != nullptr) report = session->report();
    give_text(json,
              scalecom::describe_installation_json(
                  report ? &*report : nullptr, session != nullptr ? &session->topology() : nullptr,
                  session != nullptr ? session->config() : sessions().read_config()));
  });
}
