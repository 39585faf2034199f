#include "scalecom/session.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <future>
#include <utility>

#include "base/error.hpp"
#include "runtime/arguments.hpp"
#include "runtime/mpi_plugin.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/settings.hpp"
#include "runtime/start_thread.hpp"

namespace scalecom {
namespace {

// In the form of names that stall reports give in words.
constexpr const char* kBarrierName = "barrier.scalecom[barrier()]";

// In top and debuggers; Linux takes 15 characters.
constexpr const char* kThreadName = "scalecom";

// In place of a path: one that start_timeline() names later.
constexpr const char* kDynamicTimeline = "DYNAMIC";

// Each rank has its own file where this stands in the path.
std::string timeline_path(std::string path, int rank) {
  constexpr std::string_view kRank = "{rank}";
  for (std::size_t at = path.find(kRank); at != std::string::npos; at = path.find(kRank, at)) {
    path.replace(at, kRank.size(), std::to_string(rank));
  }
  return path;
}

Coordinator::Parts coordinator_parts(SessionParts& parts, SessionDevice& device, TensorQueue& queue,
                                     SharedStats& stats, ChooseMode choose_mode) {
  return {.rank = parts.topology.rank,
          .size = parts.topology.size,
          .scope = parts.scope,
          .config = parts.config,
          .transport = parts.transport.get(),
          .collectives = parts.collectives.get(),
          .channel = parts.channel.get(),
          .queue = &queue,
          .stats = &stats,
          .devices = {&device,
                      [&parts](Accelerator& accelerator, const WaitContext& context) {
                        return parts.make_device_collectives(accelerator, parts, context);
                      }},
          .choose_mode = std::move(choose_mode)};
}

TensorSignature signature_of(OperationKind kind, const TensorView& tensor) {
  TensorSignature signature;
  signature.kind = kind;
  signature.dtype = tensor.dtype;
  signature.device = tensor.device.kind;
  signature.shape = tensor.shape;
  return signature;
}

TensorSignature signature_of(OperationKind kind, const TensorView& tensor,
                             const ReduceOptions& options) {
  TensorSignature signature = signature_of(kind, tensor);
  signature.op = options.op;
  signature.prescale = options.prescale;
  signature.postscale = options.postscale;
  return signature;
}

// The session's device, for one of its tensors.
std::shared_ptr<DeviceContext> acquire(SessionDevice& device, const PendingTensor& tensor) {
  try {
    return device.acquire(tensor.input.device.index);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("tensor {}: {}", tensor.name, error.what()));
  }
}

PendingTensor pending_all_reduce(std::string name, TensorView input, TensorView output,
                                 const AllReduceOptions& options, SessionImpl& session) {
  TensorSignature signature = signature_of(OperationKind::all_reduce, input, options);
  check_guard(name, options.compression, session.config());
  signature.priority = options.priority;
  const CompressionMode mode = session.mode_of(input, options.compression);
  double beta = 0.0;
  if (mode != CompressionMode::none) {
    signature.compression = options.compression;
    signature.compression.mode = mode;
  } else if (options.compression.mode != CompressionMode::none) {
    beta = options.compression.beta;
  }
  PendingTensor tensor{std::move(name), std::move(signature), std::move(input), std::move(output),
                       nullptr};
  tensor.beta = beta;
  return tensor;
}

PendingTensor pending_all_gather(const std::string& name, const TensorView& input) {
  check_all_gather(name, input);
  return {name, signature_of(OperationKind::all_gather, input), input, {}, nullptr};
}

PendingTensor pending_broadcast(const std::string& name, const TensorView& tensor, int root,
                                int size) {
  check_broadcast(name, tensor, root, size);
  TensorSignature signature = signature_of(OperationKind::broadcast, tensor);
  signature.root = root;
  return {name, std::move(signature), tensor, tensor, nullptr};
}

PendingTensor pending_reduce_scatter(const std::string& name, const TensorView& input,
                                     const ReduceOptions& options) {
  check_reduce_scatter(name, input, options);
  return {name, signature_of(OperationKind::reduce_scatter, input, options), input, {}, nullptr};
}

template <class MakePending>
std::vector<PendingTensor> pending_each(const std::vector<NamedInput>& inputs,
                                        const MakePending& make_pending) {
  std::vector<PendingTensor> tensors;
  tensors.reserve(inputs.size());
  for (const auto& [name, input] : inputs) tensors.push_back(make_pending(name, input));
  return tensors;
}

}  // namespace

SessionImpl::SessionImpl(SessionParts parts)
    : parts_(std::move(parts)),
      device_(parts_.make_accelerator),
      queue_(parts_.config.queue_capacity),
      coordinator_(coordinator_parts(
          parts_, device_, queue_, stats_,
          [this](std::int64_t count, DataType dtype, const Compression& compression) {
            return mode_on_device(count, dtype, compression);
          })) {
  start_timeline_by_setting();
  thread_ = start_thread("the session", [this] {
    coordinator_.run();
    if (parts_.backend != nullptr) end_mpi(*parts_.backend, coordinator_);
    parts_.channel->close();
  });
  pthread_setname_np(thread_.native_handle(), kThreadName);
}

SessionImpl::~SessionImpl() { shutdown(); }

Ticket SessionImpl::submit(PendingTensor tensor) {
  check_process();
  tensor.ticket = std::make_shared<TicketState>(coordinator_.seat());
  Ticket ticket(tensor.ticket);
  mark_ready(tensor, nullptr);
  queue_.push(std::move(tensor));
  return ticket;
}

Ticket SessionImpl::submit_group(std::vector<PendingTensor> tensors) {
  const auto state = std::make_shared<TicketState>(coordinator_.seat(), tensors.size());
  for (PendingTensor& tensor : tensors) tensor.ticket = state;
  push_group(std::move(tensors));
  return Ticket(state);
}

std::vector<Ticket> SessionImpl::submit_each(std::vector<PendingTensor> tensors) {
  std::vector<Ticket> tickets;
  tickets.reserve(tensors.size());
  for (PendingTensor& tensor : tensors) {
    tensor.ticket = std::make_shared<TicketState>(coordinator_.seat());
    tickets.push_back(Ticket(tensor.ticket));
  }
  push_group(std::move(tensors));
  return tickets;
}

void SessionImpl::push_group(std::vector<PendingTensor> tensors) {
  check_process();
  const PendingTensor* before = nullptr;
  for (PendingTensor& tensor : tensors) {
    mark_ready(tensor, before);
    before = &tensor;
  }
  queue_.push_group(std::move(tensors));
}

// Members of a group come one after the other on their streams.
void SessionImpl::mark_ready(PendingTensor& tensor, const PendingTensor* before) {
  const TensorView& input = tensor.input;
  if (input.device.kind != DeviceKind::cuda) return;
  const std::shared_ptr<DeviceContext> context = acquire(device_, tensor);
  const auto stream = static_cast<StreamHandle>(input.stream);
  if (before != nullptr && before->ready != nullptr && before->ready->stream == stream) {
    tensor.ready = before->ready;
    return;
  }
  const auto entered = context->accelerator().enter();
  if (context->accelerator().is_capturing(stream)) {
    throw Error(
        StatusCode::invalid_argument,
        fmt::format("tensor {}: its stream is being captured into a CUDA graph, which holds no "
                    "collectives; submit it before or behind the capture (torch.cuda.graph, "
                    "torch.cuda.make_graphed_callables)",
                    tensor.name));
  }
  tensor.ready = context->record(stream);
}

void SessionImpl::take_device(int index) {
  if (index < 0 || device_.context() != nullptr) return;
  try {
    device_.acquire(index);
  } catch (const Error&) {  // What needs it is refused, and says so.
  }
}

void SessionImpl::join() {
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void SessionImpl::run_on_coordinator(const CoordinatorTask& task) {
  run_by(&TensorQueue::push_task, task);
}

void SessionImpl::run_urgently(const CoordinatorTask& task) {
  run_by(&TensorQueue::push_urgent_task, task);
}

void SessionImpl::run_by(bool (TensorQueue::*push)(CoordinatorTask), const CoordinatorTask& task) {
  check_process();
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> outcome = done->get_future();
  const bool is_pushed = (queue_.*push)([&task, done] {
    try {
      task();
      done->set_value(Status());
    } catch (const Error& error) {  // As a value: no thread has the other's exception.
      done->set_value(error.status());
    } catch (...) {
      done->set_exception(std::current_exception());
    }
  });
  done.reset();  // The task alone has it: one that is dropped at the session's end breaks it.
  try {
    if (is_pushed) {
      const Status status = outcome.get();
      if (!status.is_ok()) throw Error(status);
      return;
    }
  } catch (const std::future_error&) {
  }
  join();  // The queue is closed, so the thread is on its last steps.
  const std::lock_guard lock(join_mutex_);
  task();
}

// The thread ends within the coordinator's shutdown time and end_mpi()'s, whatever other ranks do.
void SessionImpl::shutdown() {
  if (!is_of_this_process()) return;
  // A program that ends calls it too, also one that ends by an exception.
  const std::string message = fmt::format(
      "rank {} called shutdown(), or its program ended: look at its output, and see that all ranks "
      "make as many calls",
      parts_.topology.rank);
  queue_.push_urgent_task(
      [this, message] { coordinator_.end_session(Status(StatusCode::shut_down, message)); });
  join();
  stop_timeline();
}

Status SessionImpl::status() const { return queue_.closed_status(); }

std::vector<ResidualInfo> SessionImpl::residuals() {
  std::vector<ResidualInfo> infos;
  run_on_coordinator([&] {
    for (const auto& [name, entry] : coordinator_.residuals().entries()) {
      infos.push_back({name, entry.shape, entry.next_step, entry.beta});
    }
  });
  std::ranges::sort(infos, {}, &ResidualInfo::name);
  return infos;
}

Residual SessionImpl::residual(const std::string& name) {
  std::optional<Residual> copy;
  run_on_coordinator([&] {
    if (const auto* entry = coordinator_.residuals().find(name)) {
      copy = {name, entry->shape, entry->next_step, entry->copy(), entry->beta};
    }
  });
  if (!copy) {
    throw Error(StatusCode::invalid_argument,
                "tensor " + name +
                    ": it has no residual on this rank; residuals() lists those "
                    "that were compressed or restored");
  }
  return *std::move(copy);
}

void SessionImpl::restore_residuals(std::vector<Residual> residuals) {
  for (const Residual& residual : residuals) check_residual(residual);
  run_on_coordinator([&] {
    for (Residual& residual : residuals) coordinator_.restore_residual(std::move(residual));
  });
}

std::vector<CompressionHealth> SessionImpl::compression_health() {
  std::vector<CompressionHealth> health;
  run_on_coordinator([&] { health = coordinator_.health(); });
  return health;
}

// Without tuning nothing changes it, and nothing is to be waited for.
Config SessionImpl::current_config() {
  Config config = this->config();
  if (!config.autotune) return config;
  run_urgently([&] { config = coordinator_.describe_config(); });
  return config;
}

std::unique_ptr<TimelineWriter> SessionImpl::open_timeline(const std::string& path,
                                                           const std::string& origin) {
  const Topology& topology = parts_.topology;
  const std::string own = timeline_path(path, topology.rank);
  if (topology.rank != 0 && own == path) return nullptr;
  return std::make_unique<TimelineWriter>(own, origin, TimelineOwner{topology.rank, topology.size});
}

void SessionImpl::start_timeline_by_setting() {
  const Config& config = parts_.config;
  if (config.timeline.empty() || config.timeline == kDynamicTimeline) return;
  auto writer =
      open_timeline(config.timeline, variable_of(config, "TIMELINE") + "=" + config.timeline);
  if (writer != nullptr) {
    coordinator_.start_timeline(std::move(writer), config.timeline_mark_cycles);
  }
  timeline_path_ = config.timeline;
}

void SessionImpl::start_timeline(const std::string& path, bool mark_cycles) {
  check_process();  // Before the file, which may be the other process's.
  const std::lock_guard lock(timeline_mutex_);
  if (const Status ended = status(); !ended.is_ok()) throw Error(ended);
  if (path.empty()) {
    throw Error(StatusCode::invalid_argument,
                "start_timeline: the path is empty; name the file that rank 0 writes");
  }
  if (!timeline_path_.empty()) {
    throw Error(StatusCode::invalid_argument,
                fmt::format("start_timeline: a timeline is being written to {} already; call "
                            "stop_timeline() first",
                            timeline_path_));
  }
  auto writer = open_timeline(path, "start_timeline");
  if (writer != nullptr) {
    run_urgently([&] { coordinator_.start_timeline(std::move(writer), mark_cycles); });
  }
  timeline_path_ = path;
}

// The writer ends here, so that nobody else waits for its disk.
void SessionImpl::stop_timeline() {
  const std::lock_guard lock(timeline_mutex_);
  if (timeline_path_.empty()) return;
  std::unique_ptr<TimelineWriter> writer;
  run_urgently([&] { writer = coordinator_.stop_timeline(); });
  timeline_path_.clear();
}

std::unique_ptr<Session> Session::connect(const Config& config, std::stop_token called_off) {
  return std::make_unique<Session>(
      std::make_unique<SessionImpl>(connect_session(config, std::move(called_off))));
}

Session::Session(std::unique_ptr<SessionImpl> impl) : impl_(std::move(impl)) {}
// The other process's: to end it here would be to end it there.
Session::~Session() {
  if (!impl_->is_of_this_process()) impl_.release();
}

void Session::shutdown() { impl_->shutdown(); }
Status Session::status() const { return impl_->status(); }
const Topology& Session::topology() const noexcept { return impl_->topology(); }

Ticket Session::all_reduce(std::string name, TensorView input, TensorView output,
                           const AllReduceOptions& options) {
  check_all_reduce(name, input, output, options);
  return impl_->submit(
      pending_all_reduce(std::move(name), std::move(input), std::move(output), options, *impl_));
}

Ticket Session::all_reduce_group(std::vector<GroupMember> members,
                                 const AllReduceOptions& options) {
  std::vector<PendingTensor> tensors;
  tensors.reserve(members.size());
  for (const GroupMember& member : members) {
    check_all_reduce(member.name, member.input, member.output, member.options.value_or(options));
    check_member(member, members.front());
  }
  for (GroupMember& member : members) {
    tensors.push_back(pending_all_reduce(std::move(member.name), std::move(member.input),
                                         std::move(member.output), member.options.value_or(options),
                                         *impl_));
  }
  return impl_->submit_group(std::move(tensors));
}

Ticket Session::all_gather(const std::string& name, const TensorView& input) {
  return impl_->submit(pending_all_gather(name, input));
}

std::vector<Ticket> Session::all_gather_group(const std::vector<NamedInput>& inputs) {
  return impl_->submit_each(pending_each(inputs, pending_all_gather));
}

Ticket Session::reduce_scatter(const std::string& name, const TensorView& input,
                               const ReduceOptions& options) {
  return impl_->submit(pending_reduce_scatter(name, input, options));
}

std::vector<Ticket> Session::reduce_scatter_group(const std::vector<NamedInput>& inputs,
                                                  const ReduceOptions& options) {
  return impl_->submit_each(
      pending_each(inputs, [&](const std::string& name, const TensorView& input) {
        return pending_reduce_scatter(name, input, options);
      }));
}

Ticket Session::all_to_all(const std::string& name, const TensorView& input,
                           const std::vector<std::int64_t>& splits) {
  const int size = impl_->topology().size;
  check_all_to_all(name, input, splits, size);
  PendingTensor tensor{name, signature_of(OperationKind::all_to_all, input), input, {}, nullptr};
  tensor.splits = splits;
  if (splits.empty()) tensor.splits.assign(static_cast<std::size_t>(size), input.shape[0] / size);
  return impl_->submit(std::move(tensor));
}

Ticket Session::broadcast(const std::string& name, const TensorView& tensor, int root) {
  return impl_->submit(pending_broadcast(name, tensor, root, impl_->topology().size));
}

Ticket Session::broadcast_group(const std::vector<NamedInput>& tensors, int root) {
  return impl_->submit_group(
      pending_each(tensors, [&](const std::string& name, const TensorView& tensor) {
        return pending_broadcast(name, tensor, root, impl_->topology().size);
      }));
}

Ticket Session::barrier() {
  return impl_->submit({kBarrierName, signature_of(OperationKind::barrier, {}), {}, {}, nullptr});
}

Ticket Session::join(int device) {
  impl_->take_device(device);
  return impl_->submit({kJoinName, signature_of(OperationKind::join, {}), {}, {}, nullptr});
}

std::vector<ResidualInfo> Session::residuals() const { return impl_->residuals(); }
Residual Session::residual(const std::string& name) const { return impl_->residual(name); }

void Session::restore_residuals(std::vector<Residual> residuals) {
  impl_->restore_residuals(std::move(residuals));
}

std::vector<CompressionHealth> Session::compression_health() const {
  return impl_->compression_health();
}

void Session::start_timeline(const std::string& path, bool mark_cycles) {
  impl_->start_timeline(path, mark_cycles);
}

void Session::stop_timeline() { impl_->stop_timeline(); }

AllReduceExplanation Session::explain_all_reduce(std::int64_t bytes) const {
  check_not_negative("bytes", bytes);
  return impl_->explain_all_reduce(bytes);
}

CompressionExplanation Session::explain_compression(std::int64_t count, DataType dtype,
                                                    const Compression& compression,
                                                    DeviceKind device) const {
  check_explained(count, dtype, compression, device);
  check_guard("to be explained", compression, config());
  return impl_->explain_compression(count, dtype, compression, device);
}

Config Session::config() const { return impl_->current_config(); }
SessionStats Session::stats() const { return impl_->stats(); }
SessionReport Session::report() const { return impl_->report(); }

}  // namespace scalecom
