#include "tests/sim/device_rank.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "runtime/device/device_costs.hpp"

namespace scalecom::sim {
namespace {

// No wait of a run lasts: one that does is an error.
WaitContext patience() { return {Deadline::after(std::chrono::seconds(60)), nullptr}; }

// It does not matter what figures come of it.
constexpr MeasuredSizes kMeasured{.elements = 1 << 13, .few_bytes = 1 << 9, .many_bytes = 1 << 11};

Config config_of(const DevicePlan& plan) {
  Config config;
  config.health_steps = plan.health_steps;
  return config;
}

std::uint64_t seed_of(const DevicePlan& plan, int rank) {
  return plan.seed * 1009 + static_cast<std::uint64_t>(plan.fault) * 101 +
         static_cast<std::uint64_t>(rank);
}

std::size_t largest(const std::vector<Bytes>& parts) {
  std::size_t bytes = 1;
  for (const Bytes& part : parts) bytes = std::max(bytes, part.size());
  return bytes;
}

}  // namespace

DeviceRank::DeviceRank(const DevicePlan& plan, int rank, Meetings& meetings, SimulatedJob& job,
                       std::vector<std::string>& violations)
    : plan_(plan),
      rank_(rank),
      violations_(violations),
      device_([this](int index) {
        auto made = std::make_unique<test::FakeAccelerator>(
            seed_of(plan_, rank_), index, [this](const std::string& what) { violate(what); });
        accelerator_ = made.get();
        return made;
      }),
      residuals_(std::in_place),
      health_(config_of(plan), rank),
      calls_(plan.call_count()),
      host_(meetings.control(rank), [this] { measuring_->pause(); }) {
  device_.acquire(0);
  const auto entered = accelerator_->enter();
  blocks_at_start_ = accelerator_->blocks();
  if (plan.is_over_nccl()) nccl_.emplace(*accelerator_, job, rank, seed_of(plan, rank) + 50);
  execution_.emplace(
      rank, plan.size, config_of(plan), *residuals_, health_,
      DeviceNeeds{&device_,
                  [&](Accelerator&, const WaitContext&) { return make_collectives(meetings); },
                  kMeasured});
  execution_->connect(0, patience());
  make_memory();
  const bool is_short = plan.fault == DeviceFault::shortage && seed_of(plan, rank) % 3 > 0;
  if (is_short) accelerator_->set_free(plan.free_bytes);
}

std::unique_ptr<DeviceCollectives> DeviceRank::make_collectives(Meetings& meetings) {
  if (nccl_) return nccl_->connect();
  auto made = std::make_unique<MeetingCollectives>(*accelerator_, meetings, rank_,
                                                   seed_of(plan_, rank_) + 50);
  collectives_ = made.get();
  collective_state_ = made->state();
  return made;
}

// An operation has ended without results, as it was aborted.
bool DeviceRank::has_skipped() const {
  return nccl_ ? nccl_->skipped() > 0 : collective_state_->skipped > 0;
}

void DeviceRank::violate(const std::string& what) {
  violations_.push_back(fmt::format("rank {}: {}", rank_, what));
}

// In the order of the application's streams, so that it is gone behind the last reading.
void DeviceRank::make_memory() {
  for (StreamOwner& stream : streams_) stream = accelerator_->make_stream();
  for (std::size_t turn = 0; turn < plan_.turns; ++turn) {
    for (const PlannedTensor& tensor : plan_.tensors) {
      std::size_t input = 1;
      std::size_t output = 1;
      for (const PlannedTensor::Step& step : tensor.steps) {
        input = std::max(input, largest(step.inputs));
        output = std::max(output, step.result_of(rank_).size());
      }
      Memory& memory = memory_.emplace_back();
      const MemoryOrder order{stream_of(tensor, turn), stream_of(tensor, turn)};
      memory.input = accelerator_->allocate(input, order);
      memory.result = memory.input.get();
      if (tensor.is_in_place) continue;
      memory.output = accelerator_->allocate(output, order);
      memory.result = memory.output.get();
    }
  }
}

void DeviceRank::enqueue(StreamHandle stream, const char* name, std::vector<test::MemoryUse> uses,
                         std::function<void()> body) {
  accelerator_->enqueue(stream, {name, std::move(uses), false, [body = std::move(body)] {
                                   body();
                                   return true;
                                 }});
}

void DeviceRank::write(std::size_t place, std::size_t step) {
  const PlannedTensor& tensor = plan_.tensors[place];
  const Bytes& values = tensor.steps[step].inputs[static_cast<std::size_t>(rank_)];
  std::byte* const to = memory_of(place, step).input.get();
  enqueue(stream_of(tensor, step), "the application's gradient", {{to, values.size()}},
          [to, &values] { std::copy(values.begin(), values.end(), to); });
}

PendingTensor DeviceRank::pending(const AgreedTensor& agreed, std::size_t place,
                                  std::size_t step) const {
  const Memory& memory = memory_of(place, step);
  PendingTensor made;
  made.name = agreed.name;
  made.signature = agreed.signature;
  made.input = {memory.input.get(), agreed.signature.dtype, agreed.signature.shape,
                Device{DeviceKind::cuda, 0}, stream_of(plan_.tensors[place], step)};
  if (!plan_.tensors[place].has_own_result()) {
    made.output = made.input;
    made.output.data = memory.result;
  }
  if (agreed.signature.kind == OperationKind::all_to_all) {
    const auto own = agreed.first_extents.begin() + rank_ * plan_.size;
    made.splits.assign(own, own + plan_.size);
  }
  return made;
}

// As SessionImpl does it.
void DeviceRank::mark_ready(PendingTensor& tensor, const PendingTensor* before) {
  const auto stream = static_cast<StreamHandle>(tensor.input.stream);
  const bool is_marked = before != nullptr && before->ready->stream == stream;
  tensor.ready = is_marked ? before->ready : device_.context()->record(stream);
}

bool DeviceRank::may_submit() const {
  if (has_aborted_ || submitted_ == plan_.call_count()) return false;
  const std::size_t step_calls = plan_.calls.size();
  if (submitted_ - read_ >= std::min(plan_.ahead_max, plan_.turns * step_calls)) return false;
  if (submitted_ < step_calls) return true;
  return calls_[submitted_ - step_calls].is_ready();  // Of the same names.
}

bool DeviceRank::submit() {
  if (!may_submit()) return false;
  if (is_device_lost()) {
    abort();  // The application's own calls fail, too, and its process ends.
    return true;
  }
  const auto entered = accelerator_->enter();
  const Agreement known = plan_.agreement(submitted_, rank_);
  const std::vector<std::size_t>& places = plan_.call(submitted_);
  const std::size_t step = plan_.step_of(submitted_);
  Call& call = calls_[submitted_++];
  const bool is_group = !plan_.tensors[places.front()].has_own_result();
  call.left = places.size();
  for (std::size_t i = 0; i < places.size(); ++i) {
    write(places[i], step);
    PendingTensor& tensor = call.tensors.emplace_back(pending(known.tensors[i], places[i], step));
    const bool has_ticket = is_group && i > 0;
    tensor.ticket = has_ticket
                        ? call.tickets.front()
                        : std::make_shared<TicketState>(nullptr, is_group ? places.size() : 1);
    call.tickets.push_back(tensor.ticket);
    if (!plan_.is_grouped) mark_ready(tensor, nullptr);
  }
  const PendingTensor* before = nullptr;
  for (PendingTensor& tensor : call.tensors) {
    if (plan_.is_grouped) mark_ready(tensor, before);
    before = &tensor;
  }
  return true;
}

bool DeviceRank::read() {
  if (has_aborted_ || read_ == submitted_ || !calls_[read_].is_ready()) return false;
  if (is_device_lost()) {
    abort();
    return true;
  }
  const auto entered = accelerator_->enter();
  Call& call = calls_[read_];
  const std::size_t step = plan_.step_of(read_);
  const std::vector<std::size_t>& places = plan_.call(read_);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const PlannedTensor& tensor = plan_.tensors[places[i]];
    const StreamHandle stream = stream_of(tensor, step);
    if (tensor.has_own_result()) {
      call.tickets[i]->copy_output(memory_of(places[i], step).result, stream);
      check_splits(tensor, step, *call.tickets[i]);
    } else {
      call.tickets[i]->make_wait(stream);
    }
    check_result(places[i], step);
  }
  call.tickets.clear();
  ++read_;
  return true;
}

// On the device. What comes behind an operation that was aborted may be anything.
void DeviceRank::check_result(std::size_t place, std::size_t step) {
  const PlannedTensor& tensor = plan_.tensors[place];
  const Bytes& expected = tensor.steps[step].result_of(rank_);
  const std::byte* const found = memory_of(place, step).result;
  enqueue(stream_of(tensor, step), "the application's reading", {{found, expected.size()}},
          [this, &tensor, &expected, step, found] {
            ++results_;
            if (has_skipped()) return;
            const auto first = std::ranges::mismatch(expected, std::span(found, expected.size()));
            if (first.in1 == expected.end()) return;
            violate(fmt::format("{} ({}) in step {} differs at byte {} of {}", tensor.name,
                                to_string(tensor.signature.dtype), step,
                                first.in1 - expected.begin(), expected.size()));
          });
}

// And that the result is as long as what was expected: the copy takes the ticket's length.
void DeviceRank::check_splits(const PlannedTensor& tensor, std::size_t step,
                              const TicketState& ticket) {
  const PlannedTensor::Step& expected = tensor.steps[step];
  const auto bytes = static_cast<std::size_t>(ticket.output().bytes());
  if (bytes != expected.result_of(rank_).size()) {
    violate(fmt::format("{} in step {} has {} bytes, not {}", tensor.name, step, bytes,
                        expected.result_of(rank_).size()));
  }
  std::vector<std::int64_t> splits;
  if (tensor.signature.kind == OperationKind::all_to_all) {
    for (int from = 0; from < plan_.size; ++from) {
      splits.push_back(expected.rows[static_cast<std::size_t>(from * plan_.size + rank_)]);
    }
  }
  if (ticket.received_splits() == splits) return;
  violate(fmt::format("{} in step {} comes in {} rows, not {}", tensor.name, step,
                      fmt::join(ticket.received_splits(), " "), fmt::join(splits, " ")));
}

void DeviceRank::plan_call() {
  Agreement made = plan_.agreement(begun_++, rank_);
  settle_rates(made);
  const auto batches = plan_batches(made, plan_.size, plan_.threshold_bytes);
  batches_.assign(batches.begin(), batches.end());
  batches_.front().measures_device = plan_.measures_before == begun_ - 1;
  agreement_ = std::make_shared<const Agreement>(std::move(made));
}

// As Execution does it: nothing else of the rank's coordinator goes on meanwhile.
bool DeviceRank::measure() {
  if (measuring_ == nullptr) {
    measuring_ = std::make_unique<SteppedCall>([this] { execution_->measure(host_, patience()); });
    collectives_->set_pause([this] { measuring_->pause(); });
  }
  if (!measuring_->resume()) return false;
  end_measuring();
  batches_.front().measures_device = false;
  return true;
}

void DeviceRank::end_measuring() {
  if (measuring_ == nullptr) return;
  measuring_.reset();
  collectives_->set_pause({});
}

std::string DeviceRank::costs() const {
  const auto costs = device_.costs();
  return costs == nullptr ? "" : describe(*costs);
}

bool DeviceRank::start(std::size_t agreed) {
  if (!execution_->can_start() || (batches_.empty() && begun_ == agreed)) return false;
  if (batches_.empty()) plan_call();
  if (batches_.front().measures_device && (!under_way_.empty() || !measure())) return false;
  BatchUnderWay& work =
      under_way_.emplace_back(BatchUnderWay{std::move(batches_.front()), agreement_, begun_ - 1});
  batches_.pop_front();
  for (const std::size_t place : work.batch.tensors) {
    work.tensors.push_back(&calls_[work.call].tensors[place]);
  }
  execution_->start(work.batch, *work.agreement, work.tensors);
  return true;
}

// As Execution does it.
bool DeviceRank::advance() {
  bool has_moved = false;
  const bool has_call = nccl_ && nccl_->is_called();
  const std::size_t first_done = static_cast<std::size_t>(counts_.batches);
  for (BatchUnderWay& work : under_way_) {
    const bool has_begun = execution_->advance(work.batch, patience());
    if (has_begun && has_call && nccl_->is_called() && &work != &under_way_.front()) {
      ++counts_.overlaps;
    }
    has_moved = has_begun || has_moved;
    if (execution_->is_done(work.batch)) complete(work);
  }
  const auto done = static_cast<std::size_t>(counts_.batches) - first_done;
  under_way_.erase(under_way_.begin(), under_way_.begin() + static_cast<std::ptrdiff_t>(done));
  return has_moved;
}

bool DeviceRank::coordinate(std::size_t agreed) {
  if (has_aborted_) return false;
  try {
    const bool has_started = start(agreed);
    const bool has_moved = advance() || has_started;
    if (nccl_ && nccl_->has_failed()) violate("an error of a call has not been told");
    return has_moved;
  } catch (const Error& error) {
    if (!is_expected(error)) violate(error.what());
    abort();
    return true;
  }
}

// It is Execution that says which tensors the batch has; a result's error knows its own.
bool DeviceRank::is_expected(const Error& error) const {
  if (!has_failed_) return false;
  switch (plan_.fault) {
    case DeviceFault::failing_rank: return error.code() == StatusCode::rank_lost;
    case DeviceFault::no_memory: return error.code() == StatusCode::unavailable;
    case DeviceFault::device_error: return error.code() == StatusCode::internal;
    default: return false;
  }
}

void DeviceRank::fail() {
  has_failed_ = true;
  switch (plan_.fault) {
    case DeviceFault::failing_rank: return nccl_ ? nccl_->fail() : collectives_->fail();
    case DeviceFault::no_memory: return accelerator_->set_free(0);
    case DeviceFault::device_error: return accelerator_->fail();
    default: return;
  }
}

void DeviceRank::complete(BatchUnderWay& work) {
  ++counts_.batches;
  Call& call = calls_[work.call];
  for (PendingTensor* tensor : work.tensors) std::exchange(tensor->ticket, nullptr)->complete({});
  call.left -= work.tensors.size();
  if (call.left > 0) return;
  completed_.push_back(work.call);
  if (!call.is_ready()) violate("a call whose batches are done is not");
  call.tensors.clear();
}

void DeviceRank::look() {
  if (has_aborted_ || measuring_ != nullptr) return;
  try {
    execution_->check();
    counts_.samples += static_cast<int>(execution_->read_samples().size());
  } catch (const Error& error) {
    if (!is_expected(error)) violate(error.what());
    abort();
  }
}

// Who waits for the device asks it.
void DeviceRank::abort() {
  if (std::exchange(has_aborted_, true)) return;
  if (!execution_->is_done()) ++counts_.aborted_within;
  if (nccl_ && nccl_->is_called()) ++counts_.aborted_calls;
  if (measuring_ != nullptr) ++counts_.aborted_measuring;
  end_measuring();
  const int asked = accelerator_->calls()["is_done"];
  execution_->abort();
  const Status status(StatusCode::rank_lost, "a rank is lost");
  for (std::size_t call = read_; call < submitted_; ++call) {
    for (PendingTensor& tensor : calls_[call].tensors) {
      if (tensor.ticket != nullptr) tensor.ticket->complete(status);
    }
    if (!calls_[call].is_ready()) violate(fmt::format("call {} has not ended", call));
    calls_[call].tensors.clear();
  }
  end_application();
  if (plan_.ends_at_once) give_back();
  if (accelerator_->calls()["is_done"] != asked) violate("the end has asked the device");
}

// What is enqueued goes on.
void DeviceRank::give_back() {
  execution_.reset();
  residuals_.reset();
}

// Its memory goes behind what the tickets know of.
void DeviceRank::end_application() {
  if (is_device_lost()) {
    for (Call& call : calls_) call.tickets.clear();
    memory_.clear();
    ended_streams_ = streams_.size();
    return;
  }
  const auto entered = accelerator_->enter();
  for (Call& call : calls_) {
    for (const auto& ticket : call.tickets) {
      for (const StreamOwner& stream : streams_) ticket->make_wait(stream.get());
    }
    call.tickets.clear();
  }
  memory_.clear();
  for (const StreamOwner& stream : streams_) {
    enqueue(stream.get(), "the application's end", {}, [this] { ++ended_streams_; });
  }
}

bool DeviceRank::is_over() {
  if (has_aborted_) return ended_streams_ == streams_.size();
  std::size_t results = 0;
  for (const auto& call : plan_.calls) results += call.size();
  return results_ == results * plan_.steps && !execution_->is_busy();
}

void DeviceRank::check_residuals() {
  for (const PlannedTensor& tensor : plan_.tensors) {
    if (tensor.residuals.empty()) continue;
    const ResidualStore::Entry* const entry = residuals_->find(tensor.name);
    const auto& expected = tensor.residuals[static_cast<std::size_t>(rank_)];
    const std::vector<float> found = entry == nullptr ? std::vector<float>() : entry->copy();
    const bool is_same = found.size() == expected.size() &&
                         std::memcmp(found.data(), expected.data(), found.size() * 4) == 0;
    if (!is_same) violate(fmt::format("the residual of {} differs", tensor.name));
  }
}

void DeviceRank::end() {
  if (!has_aborted_) {
    std::vector<std::size_t> in_order(plan_.call_count());
    std::iota(in_order.begin(), in_order.end(), std::size_t{0});
    if (completed_ != in_order) violate("calls were not completed in their order");
    look();
    check_residuals();
    if (nccl_) nccl_->make_at_once();
    execution_->close(patience());
    end_application();
  }
  const auto entered = is_device_lost() ? nullptr : accelerator_->enter();
  counts_ = counts();
  give_back();
  accelerator_->synchronize();
  for (StreamOwner& stream : streams_) stream.reset();
  if (accelerator_->blocks() != blocks_at_start_) {
    violate(fmt::format("{} pieces of memory are not given back",
                        accelerator_->blocks() - blocks_at_start_));
  }
}

std::string DeviceRank::figures() const {
  std::string text;
  for (const CompressionHealth& one : health_.health()) {
    text += fmt::format("{} in step {}: {} chunks, {} {} {} {}; ", one.name, one.step,
                        one.sampled_chunks, one.mean_relative_error, one.mean_residual_to_gradient,
                        one.hamming_distance, one.chunk_overlap);
  }
  return text;
}

DeviceRank::Counts DeviceRank::counts() const {
  Counts counts = counts_;
  const auto calls = accelerator_->calls();
  const auto refused = calls.find("refuse");
  counts.refused = refused == calls.end() ? 0 : refused->second;
  counts.results = results_;
  counts.measured = device_.costs() != nullptr && device_.costs()->is_measured() ? 1 : 0;
  return counts;
}

std::string DeviceRank::calls() const {
  std::string text;
  for (const auto& [name, count] : accelerator_->calls()) {
    text += fmt::format("{} {}, ", name, count);
  }
  return text;
}

}  // namespace scalecom::sim
