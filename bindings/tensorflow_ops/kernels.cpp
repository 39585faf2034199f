#include "bindings/tensorflow_ops/kernels.hpp"

#include <cstring>
#include <thread>
#include <utility>

#include "scalecom/scalecom.hpp"

namespace scalecom::tensorflow {
namespace {

constexpr int kFirstTensor = 1;
constexpr int kIncluded = 4;
constexpr std::int64_t kInGraph = -1;

/// An all-reduce of a graph holds its thread so long at most, since the graph may have other work
/// for it, or this rank's part in an operation that others began before; and not at all for less
/// than so many bytes, as of those a graph can have many.
constexpr double kPatienceS = 0.002;
constexpr std::size_t kPatienceBytesMin = std::size_t{256} << 10;

std::int64_t read_call_number(Call& call) {
  const Tensor& number = call.add_input(0);
  if (number.type() != kInt64 || !number.shape().empty()) {
    throw Failure{kInvalidArgument, "the number of the call is not an int64 scalar"};
  }
  const auto value = *static_cast<const std::int64_t*>(number.data());
  if (value != kInGraph) call.wait_in_submit(-1.0);
  return value;
}

// With room for a result of the same shape.
Tensor& add_output_like(Call& call, int place, const Tensor& tensor) {
  return call.add_output(place, tensor.type(), tensor.shape(), tensor.bytes());
}

// Tensors that are submitted together, as the C interface takes them: all of them, or none.
struct Group {
  void add(std::string name, const Tensor& input) {
    names.push_back(std::move(name));
    inputs.push_back(input.view());
  }
  std::int64_t count() const { return static_cast<std::int64_t>(inputs.size()); }
  // Borrowed.
  std::vector<const char*> read_names() const {
    std::vector<const char*> addresses;
    for (const std::string& name : names) addresses.push_back(name.c_str());
    return addresses;
  }

  std::vector<std::string> names;
  std::vector<scalecom_tensor> inputs, outputs;
};

void submit_group(const Group& group, const scalecom_reduction& reduction, Call& call) {
  scalecom_ticket* ticket = nullptr;
  check(scalecom_all_reduce_group(group.read_names().data(), group.inputs.data(),
                                  group.outputs.data(), group.count(), &reduction, &ticket));
  call.add_ticket(ticket);
}

void submit_all_reduce(const Node& node, Call& call) {
  const UsedSet used(node);
  const std::int64_t number = read_call_number(call);
  const auto count = static_cast<std::size_t>(call.inputs_count() - kFirstTensor);
  if (node.choices.size() != 1 && node.choices.size() != count) {
    throw Failure{kInvalidArgument, std::to_string(count) + " tensors have " +
                                        std::to_string(node.choices.size()) + " reductions"};
  }
  std::vector<Group> groups(node.reductions.size());
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto place = static_cast<int>(i);
    const auto [input, output] = call.add_pair(place + kFirstTensor, place);
    Group& group = groups[node.choices[node.choices.size() == 1 ? 0 : i]];
    group.add(node.name(number, i), input);
    group.outputs.push_back(output.view());
    bytes += input.bytes();
  }
  if (number == kInGraph && bytes >= kPatienceBytesMin) call.wait_in_submit(kPatienceS);
  for (std::size_t i = 0; i < groups.size(); ++i) submit_group(groups[i], node.reductions[i], call);
}

// submit: a function of the C interface that takes names, inputs and their count, and gives each a
// ticket.
template <class Submit>
void submit_each(const Node& node, Call& call, Submit submit) {
  const UsedSet used(node);
  const std::int64_t number = read_call_number(call);
  Group group;
  for (int place = kFirstTensor; place < call.inputs_count(); ++place) {
    const auto index = static_cast<std::size_t>(place - kFirstTensor);
    group.add(node.name(number, index), call.add_input(place));
  }
  std::vector<scalecom_ticket*> tickets(group.inputs.size());
  check(submit(group.read_names().data(), group.inputs.data(), group.count(), tickets.data()));
  for (scalecom_ticket* ticket : tickets) call.add_ticket(ticket);
}

void submit_all_gather(const Node& node, Call& call) {
  submit_each(node, call, scalecom_all_gather_group);
}

void submit_reduce_scatter(const Node& node, Call& call) {
  submit_each(node, call, [&](auto names, auto inputs, auto count, auto tickets) {
    const scalecom_reduction& reduction = node.reductions.at(0);
    return scalecom_reduce_scatter_group(names, inputs, count, reduction.op, reduction.prescale,
                                         reduction.postscale, tickets);
  });
}

// As TensorFlow is to have it: with the type of the input that is at its place.
Tensor& add_output_for(Call& call, int place, const scalecom_tensor& result) {
  const std::vector<std::int64_t> shape(result.shape, result.shape + result.dimensions);
  std::int64_t bytes = size_of(static_cast<DataType>(result.dtype));
  for (const std::int64_t dimension : shape) bytes *= dimension;
  const int type = call.tensor(static_cast<std::size_t>(place + kFirstTensor)).type();
  return call.add_output(place, type, shape, static_cast<std::size_t>(bytes));
}

void copy_results(Call& call) {
  for (std::size_t i = 0; i < call.tickets().size(); ++i) {
    scalecom_ticket* ticket = call.tickets()[i];
    scalecom_tensor result{};
    check(scalecom_ticket_output(ticket, &result));
    const Tensor& output = add_output_for(call, static_cast<int>(i), result);
    check(scalecom_ticket_copy_output(ticket, output.data(), nullptr));
  }
}

void submit_broadcast(const Node& node, Call& call) {
  const UsedSet used(node);
  const std::int64_t number = read_call_number(call);
  for (int place = kFirstTensor; place < call.inputs_count(); ++place) {
    const auto [input, output] = call.add_pair(place, place - kFirstTensor);
    const scalecom_tensor view = output.view();
    if (input.data() != output.data() && input.bytes() > 0)
      std::memcpy(output.data(), input.data(), input.bytes());
    const auto index = static_cast<std::size_t>(place - kFirstTensor);
    scalecom_ticket* ticket = nullptr;
    check(scalecom_broadcast(node.name(number, index).c_str(), &view, node.root, &ticket));
    call.add_ticket(ticket);
  }
}

// Places of an all-to-all's tensors.
enum AllToAll : std::size_t { kRows = 1, kSplits = 2, kReceivedSplits = 3 };

void submit_all_to_all(const Node& node, Call& call) {
  const UsedSet used(node);
  const std::int64_t number = read_call_number(call);
  const scalecom_tensor rows = call.add_input(kRows).view();
  const Tensor& splits = call.add_input(kSplits);
  if (splits.type() != kInt64 || splits.shape().size() != 1) {
    throw Failure{kInvalidArgument, "splits must be int64 numbers, one for each rank"};
  }
  scalecom_topology topology{};
  check(scalecom_get_topology(&topology));
  call.add_output(1, kInt64, {topology.size},
                  static_cast<std::size_t>(topology.size) * sizeof(std::int64_t));
  scalecom_ticket* ticket = nullptr;
  check(scalecom_all_to_all(node.name(number, 0).c_str(), &rows,
                            static_cast<const std::int64_t*>(splits.data()),
                            static_cast<std::int32_t>(splits.shape()[0]), &ticket));
  call.add_ticket(ticket);
}

void copy_rows_and_splits(Call& call) {
  copy_results(call);
  const Tensor& received = call.tensor(kReceivedSplits);
  check(scalecom_ticket_received_splits(call.tickets()[0],
                                        static_cast<std::int64_t*>(received.data()),
                                        static_cast<std::int32_t>(received.shape()[0])));
}

void submit_barrier(const Node& node, Call& call) {
  const UsedSet used(node);
  scalecom_ticket* ticket = nullptr;
  check(scalecom_barrier(&ticket));
  call.add_ticket(ticket);
}

int is_included(const Node& node) {
  try {
    const UsedSet used(node);
    return 1;
  } catch (const Failure& failure) {
    if (failure.code != kInvalidArgument) throw;
    return 0;
  }
}

int read_fact(const Node& node) {
  if (node.fact == kIncluded) return is_included(node);
  const UsedSet used(node);
  scalecom_topology topology{};
  check(scalecom_get_topology(&topology));
  const int facts[] = {topology.rank, topology.size, topology.local_rank, topology.local_size};
  if (node.fact < 0 || node.fact > kIncluded) {
    throw Failure{kInvalidArgument,
                  "fact is " + std::to_string(node.fact) + "; allowed are 0 to 4"};
  }
  return facts[node.fact];
}

void tell_fact(const Node& node, Call& call) {
  const Tensor& output = call.add_output(0, kInt32, {}, sizeof(std::int32_t));
  *static_cast<std::int32_t*>(output.data()) = read_fact(node);
}

void start_self_test(const Node&, Call& call) {
  const Tensor& input = call.add_input(0);
  const Tensor& output = add_output_like(call, 0, input);
  if (input.type() != kInt32 || !input.shape().empty()) {
    throw Failure{kInvalidArgument, "the input is not an int32 scalar"};
  }
  call.hold();
  std::thread([&call, &input, &output] {
    const auto from = static_cast<const std::int32_t*>(input.data());
    *static_cast<std::int32_t*>(output.data()) = *from * 2;
    call.release();
  }).detach();
}

}  // namespace

constinit const Work kAllReduce{submit_all_reduce, nullptr};
constinit const Work kAllGather{submit_all_gather, copy_results};
constinit const Work kReduceScatter{submit_reduce_scatter, copy_results};
constinit const Work kBroadcast{submit_broadcast, nullptr};
constinit const Work kAllToAll{submit_all_to_all, copy_rows_and_splits};
constinit const Work kBarrier{submit_barrier, nullptr};
constinit const Work kFact{tell_fact, nullptr};
constinit const Work kSelfTest{start_self_test, nullptr};

}  // namespace scalecom::tensorflow
