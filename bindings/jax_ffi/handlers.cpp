#include <cstring>
#include <functional>
#include <numeric>

#include "bindings/jax_ffi/call.hpp"

/// The handlers that scalecom.jax registers. Each blocks its thread of XLA until the collective has
/// completed: the thread carries the session's work on meanwhile, which is faster than to hand it
/// over. Nothing waits for something behind it, as all calls of a program are one chain in the
/// order of the trace (their tokens), and XLA starts a program of a thread when the one before has
/// ended. So ranks that call alike submit in one order. Python's lock is not held and not needed.
namespace scalecom::xla {
namespace {

/// Arguments and results of a call, one for one.
struct Tensors {
  explicit Tensors(const Call& call)
      : inputs(read_tensors(call.arguments)),
        outputs(read_tensors(call.results)),
        names(read_names(call.attributes, inputs.size())) {
    if (outputs.size() != inputs.size()) {
      throw CallError(ErrorCode::internal, "the call has not a result for each argument");
    }
  }
  std::size_t size() const { return inputs.size(); }

  std::vector<scalecom_tensor> inputs;
  std::vector<scalecom_tensor> outputs;
  std::vector<const char*> names;
};

template <class T>
std::vector<T> read_values(const Call& call, const std::string& name) {
  const Array& array = find_array(call.attributes, name);
  const std::size_t element =
      array.type == static_cast<int>(ElementType::uint8) ? 1 : sizeof(std::int64_t);
  const std::size_t bytes = array.size * element;
  if (bytes % sizeof(T) != 0) {
    throw CallError(ErrorCode::internal, "the array \"" + name +
                                             "\" is of another size: install "
                                             "scalecom again");
  }
  std::vector<T> values(bytes / sizeof(T));
  std::memcpy(values.data(), array.data, bytes);
  return values;
}

std::int64_t elements_of(const scalecom_tensor& tensor) {
  return std::accumulate(tensor.shape, tensor.shape + tensor.dimensions, std::int64_t{1},
                         std::multiplies<>());
}

std::int64_t element_bytes(const scalecom_tensor& tensor) {
  constexpr std::int64_t kBytes[] = {1, 1, 2, 4, 8, 2, 4, 8, 1, 2};
  return kBytes[tensor.dtype];
}

/// "reductions": those of the C interface, as bytes; "counts": of how many tensors in turn each is.
void all_reduce(const Call& call) {
  const Tensors tensors(call);
  const auto reductions = read_values<scalecom_reduction>(call, "reductions");
  const auto counts = read_values<std::int64_t>(call, "counts");
  if (counts.size() != reductions.size() ||
      std::accumulate(counts.begin(), counts.end(), std::size_t{0}) != tensors.size()) {
    throw CallError(ErrorCode::internal, "the call has not a reduction for each tensor");
  }
  Tickets tickets;
  std::size_t first = 0;
  for (std::size_t group = 0; group < counts.size(); ++group) {
    scalecom_ticket* ticket = nullptr;
    check(scalecom_all_reduce_group(tensors.names.data() + first, tensors.inputs.data() + first,
                                    tensors.outputs.data() + first, counts[group],
                                    &reductions[group], &ticket));
    tickets.add(ticket);
    first += static_cast<std::size_t>(counts[group]);
  }
  tickets.wait();
}

void all_gather(const Call& call) {
  const Tensors tensors(call);
  Tickets tickets;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    scalecom_ticket* ticket = nullptr;
    check(scalecom_all_gather(tensors.names[i], &tensors.inputs[i], &ticket));
    tickets.add(ticket);
  }
  tickets.wait();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    scalecom_tensor gathered{};
    check(scalecom_ticket_output(tickets.at(i), &gathered));
    if (elements_of(gathered) != elements_of(tensors.outputs[i])) {
      throw CallError(ErrorCode::failed_precondition,
                      std::string("tensor ") + tensors.names[i] + ": " +
                          std::to_string(elements_of(gathered)) + " elements were gathered, " +
                          std::to_string(elements_of(tensors.outputs[i])) +
                          " were expected; was the function traced with another world size? "
                          "Call jax.clear_caches() after init()");
    }
    check(scalecom_ticket_copy_output(tickets.at(i), tensors.outputs[i].data, nullptr));
  }
}

/// "root": the rank whose arguments all get.
void broadcast(const Call& call) {
  const Tensors tensors(call);
  const auto root = static_cast<std::int32_t>(read_values<std::int64_t>(call, "root").at(0));
  Tickets tickets;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const scalecom_tensor& output = tensors.outputs[i];
    if (output.data != tensors.inputs[i].data) {
      std::memcpy(output.data, tensors.inputs[i].data,
                  static_cast<std::size_t>(elements_of(output) * element_bytes(output)));
    }
    scalecom_ticket* ticket = nullptr;
    check(scalecom_broadcast(tensors.names[i], &output, root, &ticket));
    tickets.add(ticket);
  }
  tickets.wait();
}

}  // namespace
}  // namespace scalecom::xla

extern "C" {
SCALECOM_API scalecom::xla::Error* scalecom_jax_all_reduce(scalecom::xla::Call* call) {
  return scalecom::xla::answer(call, scalecom::xla::all_reduce);
}
SCALECOM_API scalecom::xla::Error* scalecom_jax_all_gather(scalecom::xla::Call* call) {
  return scalecom::xla::answer(call, scalecom::xla::all_gather);
}
SCALECOM_API scalecom::xla::Error* scalecom_jax_broadcast(scalecom::xla::Call* call) {
  return scalecom::xla::answer(call, scalecom::xla::broadcast);
}
}
