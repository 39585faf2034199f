#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <numeric>
#include <string_view>

#include "bindings/jax_ffi/call.hpp"
#include "scalecom/tensor.hpp"

/// The handlers that scalecom.jax registers, for the host and for CUDA. Each blocks the thread that
/// XLA calls it in until the collective has completed: the thread carries the session's work on
/// meanwhile, which is faster than to hand it over. On a CUDA device that is when the collective
/// has been enqueued, behind what XLA has enqueued on its stream; the stream goes on behind it.
/// Nothing waits for something behind it, as all calls of a program are one chain in the order of
/// the trace (their tokens), and XLA starts a program of a thread when the one before has ended, or
/// has been enqueued. So ranks that call alike submit in one order. Python's lock is not held and
/// not needed. For CUDA no handler says that its call may be kept in a command buffer: a replay
/// would leave the ranks' agreement out.
namespace scalecom::xla {
namespace {

/// Arguments and results of a call, one for one.
struct Tensors {
  Tensors(const Call& call, const Place& place)
      : inputs(read_tensors(call.arguments, place)),
        outputs(read_tensors(call.results, place)),
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

/// While it lives, this thread's calls of the C interface are of the process set of the call's
/// attribute "process_set". Throws CallError where this rank is not in it.
class UsedSet {
 public:
  explicit UsedSet(const Call& call)
      : id_(static_cast<std::int32_t>(read_values<std::int64_t>(call, "process_set").at(0))) {
    if (id_ != 0) check(scalecom_process_set_use(id_));
  }
  ~UsedSet() {
    if (id_ != 0) scalecom_process_set_use(0);
  }
  UsedSet(const UsedSet&) = delete;
  UsedSet& operator=(const UsedSet&) = delete;

 private:
  const std::int32_t id_;
};

std::int64_t elements_of(const scalecom_tensor& tensor) {
  return std::accumulate(tensor.shape, tensor.shape + tensor.dimensions, std::int64_t{1},
                         std::multiplies<>());
}

/// "reductions": those of the C interface, as bytes; "counts": of how many tensors in turn each is.
void all_reduce(const Call& call, const Place& place) {
  const UsedSet used(call);
  const Tensors tensors(call, place);
  const auto reductions = read_values<scalecom_reduction>(call, "reductions");
  const auto counts = read_values<std::int64_t>(call, "counts");
  if (counts.size() != reductions.size() ||
      std::accumulate(counts.begin(), counts.end(), std::size_t{0}) != tensors.size()) {
    throw CallError(ErrorCode::internal, "the call has not a reduction for each tensor");
  }
  Tickets tickets(place);
  std::size_t first = 0;
  for (std::size_t group = 0; group < counts.size(); ++group) {
    check(scalecom_all_reduce_group(tensors.names.data() + first, tensors.inputs.data() + first,
                                    tensors.outputs.data() + first, counts[group],
                                    &reductions[group], tickets.add()));
    first += static_cast<std::size_t>(counts[group]);
  }
  tickets.wait();
}

/// The results that the tickets have made, into those that XLA has room for.
void copy_results(const Tickets& tickets, const Tensors& tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    scalecom_tensor result{};
    check(scalecom_ticket_output(tickets.at(i), &result));
    if (elements_of(result) != elements_of(tensors.outputs[i])) {
      throw CallError(ErrorCode::failed_precondition,
                      std::string("tensor ") + tensors.names[i] + ": " +
                          std::to_string(elements_of(result)) + " elements came, " +
                          std::to_string(elements_of(tensors.outputs[i])) +
                          " were expected; was the function traced with another world size? "
                          "Call jax.clear_caches() after init()");
    }
    check(scalecom_ticket_copy_output(tickets.at(i), tensors.outputs[i].data,
                                      tensors.outputs[i].stream));
  }
}

/// Waits for gathers, of which scalecom.jax gives each array a first dimension of its own: errors
/// have the shapes without it, as the user gave them.
void wait_for_gathers(Tickets& tickets, const Tensors& tensors) {
  try {
    tickets.wait();
  } catch (const CallError& error) {
    const bool is_own = std::all_of(
        tensors.inputs.begin(), tensors.inputs.end(),
        [](const scalecom_tensor& input) { return input.dimensions > 0 && input.shape[0] == 1; });
    std::string text = error.what();
    constexpr std::string_view kOwn = "[any, ";
    for (auto at = text.find(kOwn); is_own && at != std::string::npos; at = text.find(kOwn, at)) {
      text.replace(at, kOwn.size(), "[");
    }
    throw CallError(error.code(), text);
  }
}

void all_gather(const Call& call, const Place& place) {
  const UsedSet used(call);
  const Tensors tensors(call, place);
  Tickets tickets(place);
  check(scalecom_all_gather_group(tensors.names.data(), tensors.inputs.data(),
                                  std::ssize(tensors.inputs), tickets.add(tensors.size())));
  wait_for_gathers(tickets, tensors);
  copy_results(tickets, tensors);
}

/// "reductions": one, of all tensors.
void reduce_scatter(const Call& call, const Place& place) {
  const UsedSet used(call);
  const Tensors tensors(call, place);
  const scalecom_reduction reduction = read_values<scalecom_reduction>(call, "reductions").at(0);
  Tickets tickets(place);
  check(scalecom_reduce_scatter_group(tensors.names.data(), tensors.inputs.data(),
                                      std::ssize(tensors.inputs), reduction.op, reduction.prescale,
                                      reduction.postscale, tickets.add(tensors.size())));
  tickets.wait();
  copy_results(tickets, tensors);
}

std::string to_text(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t number : numbers) {
    text += (text.empty() ? "" : ", ") + std::to_string(number);
  }
  return "[" + text + "]";
}

/// "splits": the rows for each rank; "received_splits": those that are to come from each.
void all_to_all(const Call& call, const Place& place) {
  const UsedSet used(call);
  const Tensors tensors(call, place);
  const auto splits = read_values<std::int64_t>(call, "splits");
  const auto expected = read_values<std::int64_t>(call, "received_splits");
  const auto ranks = static_cast<std::int32_t>(splits.size());
  Tickets tickets(place);
  check(scalecom_all_to_all(tensors.names.at(0), &tensors.inputs[0], splits.data(), ranks,
                            tickets.add()));
  tickets.wait();
  std::vector<std::int64_t> received(expected.size());
  check(scalecom_ticket_received_splits(tickets.at(0), received.data(),
                                        static_cast<std::int32_t>(received.size())));
  if (received != expected) {
    throw CallError(ErrorCode::invalid_argument,
                    std::string("tensor ") + tensors.names[0] + ": received_splits is " +
                        to_text(expected) + ", and the ranks gave " + to_text(received) + " rows");
  }
  copy_results(tickets, tensors);
}

/// "root": the place in the process set of the rank whose arguments all get. Each result is in its
/// argument's memory.
void broadcast(const Call& call, const Place& place) {
  const UsedSet used(call);
  const Tensors tensors(call, place);
  const auto root = static_cast<std::int32_t>(read_values<std::int64_t>(call, "root").at(0));
  Tickets tickets(place);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const scalecom_tensor& output = tensors.outputs[i];
    if (output.data != tensors.inputs[i].data && elements_of(output) > 0) {
      throw CallError(ErrorCode::internal,
                      std::string("tensor ") + tensors.names[i] +
                          ": XLA has given the result another memory than the argument's");
    }
    check(scalecom_broadcast(tensors.names[i], &output, root, tickets.add()));
  }
  tickets.wait();
}

void barrier(const Call& call, const Place& place) {
  const UsedSet used(call);
  Tickets tickets(place);
  check(scalecom_barrier(tickets.add()));
  tickets.wait();
}

/// What a call costs that does nothing: the results are the arguments, in their memory.
void identity(const Call&, const Place&) {}

}  // namespace
}  // namespace scalecom::xla

#define SCALECOM_JAX_HANDLER(KIND)                                                                 \
  extern "C" SCALECOM_API scalecom::xla::Error* scalecom_jax_##KIND(scalecom::xla::Call* c) {      \
    return scalecom::xla::answer(c, scalecom::xla::Platform::host, scalecom::xla::KIND);           \
  }                                                                                                \
  extern "C" SCALECOM_API scalecom::xla::Error* scalecom_jax_cuda_##KIND(scalecom::xla::Call* c) { \
    return scalecom::xla::answer(c, scalecom::xla::Platform::cuda, scalecom::xla::KIND);           \
  }

SCALECOM_JAX_HANDLER(all_reduce)
SCALECOM_JAX_HANDLER(all_gather)
SCALECOM_JAX_HANDLER(reduce_scatter)
SCALECOM_JAX_HANDLER(all_to_all)
SCALECOM_JAX_HANDLER(broadcast)
SCALECOM_JAX_HANDLER(barrier)
SCALECOM_JAX_HANDLER(identity)
