#include "bindings/tensorflow_ops/call.hpp"

#include <array>
#include <exception>
#include <string>
#include <utility>

#include "scalecom/scalecom.hpp"

namespace scalecom::tensorflow {
namespace {

Code code_of(StatusCode code) {
  switch (code) {
    case StatusCode::ok: return kOk;
    case StatusCode::invalid_argument: return kInvalidArgument;
    case StatusCode::mismatch:
    case StatusCode::unavailable: return kFailedPrecondition;
    case StatusCode::shut_down: return kAborted;
    case StatusCode::rank_lost: return kUnavailable;
    case StatusCode::timed_out: return kDeadlineExceeded;
    case StatusCode::internal: return kInternal;
  }
  return kUnknown;
}

struct Pair {
  int ours;
  Type theirs;
};
constexpr std::array<Pair, 10> kTypes{{{0, kUint8},
                                       {1, kInt8},
                                       {2, kInt16},
                                       {3, kInt32},
                                       {4, kInt64},
                                       {5, kHalf},
                                       {6, kFloat},
                                       {7, kDouble},
                                       {8, kBool},
                                       {9, kBfloat16}}};

// Types that do not travel and that somebody may have, by TF_DataType.
std::string name_of(int type) {
  switch (type) {
    case 7: return "string";
    case 8: return "complex64";
    case 17: return "uint16";
    case 18: return "complex128";
    case 20: return "resource";
    case 21: return "variant";
    case 22: return "uint32";
    case 23: return "uint64";
    default: return "number " + std::to_string(type) + " of TensorFlow";
  }
}

int to_dtype(int type) {
  for (const Pair& pair : kTypes) {
    if (pair.theirs == type) return pair.ours;
  }
  throw Failure{kInvalidArgument,
                "dtype " + name_of(type) +
                    " is not supported; allowed are uint8, int8, int16, int32, int64, float16, "
                    "bfloat16, float32, float64 and bool: cast it"};
}

}  // namespace

void check(int scalecom_code) {
  if (scalecom_code == 0) return;
  throw Failure{code_of(static_cast<StatusCode>(scalecom_code)), scalecom_last_error()};
}

UsedSet::UsedSet(const Node& node) : id_(node.process_set) {
  if (id_ != 0) check(scalecom_process_set_use(id_));
}

UsedSet::~UsedSet() {
  if (id_ != 0) scalecom_process_set_use(0);
}

void StatusHolder::check() const {
  const int code = api().TF_GetCode(status_);
  if (code != kOk) throw Failure{static_cast<Code>(code), api().TF_Message(status_)};
}

Tensor::Tensor(TF_Tensor* tensor) : tensor_(tensor) {
  const int dimensions = api().TF_NumDims(tensor);
  for (int i = 0; i < dimensions; ++i) shape_.push_back(api().TF_Dim(tensor, i));
}

scalecom_tensor Tensor::view() const {
  return {data(), shape_.data(), static_cast<std::int32_t>(shape_.size()), to_dtype(type()), 0,
          0,      nullptr};
}

std::string Node::name(std::int64_t call, std::size_t place) const {
  std::string name = prefix;
  if (call >= 0) name += "." + std::to_string(call);
  return name + (place < suffixes.size() ? suffixes[place] : "." + std::to_string(place));
}

void Call::start(const Node& node, const Work& work, TF_OpKernelContext* context, Done done) {
  auto* call = new Call(work, context, std::move(done));
  call->submit(node);
  call->release();
}

// What has been submitted before a failure is waited for: it uses the tensors.
void Call::submit(const Node& node) {
  try {
    work_.submit(node, *this);
  } catch (const Failure& failure) {
    failure_ = failure;
  } catch (const std::exception& error) {
    failure_ = Failure{kInternal, error.what()};
  }
  if (patience_s_ == 0) return;
  for (const scalecom_ticket* ticket : tickets_) scalecom_ticket_wait(ticket, patience_s_);
}

std::unique_ptr<Tensor> Call::get_input(int place) const {
  const StatusHolder status;
  TF_Tensor* input = nullptr;
  api().TF_GetInput(context_, place, &input, status.get());
  status.check();
  return std::make_unique<Tensor>(input);
}

Tensor& Call::add_input(int place) { return *tensors_.emplace_back(get_input(place)); }

Tensor& Call::add_output(int place, int type, const std::vector<std::int64_t>& shape,
                         std::size_t bytes) {
  const StatusHolder status;
  TF_Tensor* output = api().TF_AllocateOutput(context_, place, type, shape.data(),
                                              static_cast<int>(shape.size()), bytes, status.get());
  status.check();
  return *tensors_.emplace_back(std::make_unique<Tensor>(output));
}

// Ours is a reference to the input's memory too, without which TensorFlow has to look who holds it.
Call::Pair Call::add_pair(int from, int place) {
  std::unique_ptr<Tensor> input = get_input(from);
  const std::vector<std::int64_t> shape = input->shape();
  input.reset();
  const StatusHolder status;
  TF_Tensor* output =
      api().TF_ForwardInputOrAllocateOutput(context_, &from, 1, place, shape.data(),
                                            static_cast<int>(shape.size()), nullptr, status.get());
  status.check();
  const Tensor& added = add_input(from);
  return {added, *tensors_.emplace_back(std::make_unique<Tensor>(output))};
}

void Call::add_ticket(scalecom_ticket* ticket) {
  tickets_.push_back(ticket);
  if (patience_s_ < 0) return;
  hold();
  const auto release = [](void* call) { static_cast<Call*>(call)->release(); };
  check(scalecom_ticket_on_complete(ticket, release, this));
}

void Call::release() {
  if (pending_.fetch_sub(1) == 1) end();
}

// TensorFlow may free the context as soon as it is told.
void Call::end() {
  finish();
  const Done done = std::move(done_);
  delete this;
  done();
}

void Call::finish() {
  try {
    if (failure_) throw Failure(*failure_);
    for (scalecom_ticket* ticket : tickets_) check(scalecom_ticket_wait(ticket, -1.0));
    if (work_.finish != nullptr) work_.finish(*this);
  } catch (const Failure& failure) {
    StatusHolder status;
    status.set(failure);
    api().TF_OpKernelContext_Failure(context_, status.get());
  } catch (const std::exception& error) {
    StatusHolder status;
    status.set({kInternal, error.what()});
    api().TF_OpKernelContext_Failure(context_, status.get());
  }
}

Call::~Call() {
  for (scalecom_ticket* ticket : tickets_) scalecom_ticket_release(ticket);
}

}  // namespace scalecom::tensorflow
