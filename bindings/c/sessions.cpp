#include "bindings/c/sessions.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

namespace scalecom {
namespace {

constexpr std::int32_t kAllRanks = 0;

// Of the calling thread's operations.
std::int32_t& used_set() {
  thread_local std::int32_t id = kAllRanks;
  return id;
}

std::string text_of(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

// Not by a barrier, which another thread of the program may have under way.
void meet_to_remove(Session& session, std::int32_t id) {
  std::uint8_t here = 1;
  const TensorView view{&here, DataType::uint8, {1}, {}};
  const std::string name = "allgather.scalecom[end of a process set]." + std::to_string(id);
  if (const Status status = session.all_gather(name, view).wait(); !status.is_ok()) {
    throw Error(status);
  }
}

}  // namespace

std::shared_ptr<Session> Sessions::find() {
  const std::lock_guard lock(mutex_);
  return session_;
}

std::shared_ptr<Session> Sessions::of_all_ranks() {
  auto session = find();
  if (session == nullptr) {
    throw Error(StatusCode::unavailable, "scalecom has not been initialized; call init() first");
  }
  return session;
}

std::shared_ptr<Session> Sessions::get() {
  const std::int32_t id = used_set();
  if (id == kAllRanks) return of_all_ranks();
  const std::lock_guard lock(mutex_);
  return find_usable_set(id).session;
}

void Sessions::connect() {
  const std::lock_guard connect_lock(connect_mutex_);
  if (find() != nullptr) return;
  const Config config = read_config();
  std::stop_token called_off;
  {
    const std::lock_guard lock(mutex_);
    called_off_ = std::stop_source();
    if (disconnecting_ > 0) called_off_.request_stop();
    called_off = called_off_.get_token();
  }
  std::shared_ptr<Session> session = Session::connect(config, called_off);
  const std::lock_guard lock(mutex_);
  session_ = std::move(session);
}

void Sessions::offer_nccl(std::string path) {
  const std::lock_guard lock(mutex_);
  nccl_offered_ = std::move(path);
}

Config Sessions::read_config() {
  Config config = Config::from_environment();
  const std::lock_guard lock(mutex_);
  config.nccl_offered = nccl_offered_;
  return config;
}

void Sessions::disconnect() {
  // Ends also what connect(), add_set() or remove_set() waits for, on another thread.
  {
    const std::lock_guard lock(mutex_);
    ++disconnecting_;
    called_off_.request_stop();
  }
  if (const auto session = find()) session->shutdown();
  const std::lock_guard connect_lock(connect_mutex_);
  std::shared_ptr<Session> session;
  std::map<std::int32_t, ProcessSet> sets;
  {
    const std::lock_guard lock(mutex_);
    --disconnecting_;
    session = std::move(session_);
    sets = std::exchange(sets_, {});
    next_ = {};
  }
  for (const auto& [id, set] : sets) {
    if (set.session != nullptr) set.session->shutdown();
  }
  if (session != nullptr) session->shutdown();
}

std::int32_t Sessions::add_set(std::vector<int> ranks) {
  const std::lock_guard connect_lock(connect_mutex_);
  const std::shared_ptr<Session> all = of_all_ranks();
  std::ranges::sort(ranks);
  refuse_known(ranks, all->topology().size);
  std::shared_ptr<Session> session = all->make_process_set(ranks);
  return keep_set(next_.added, std::move(ranks), std::move(session));
}

void Sessions::remove_set(std::int32_t id) {
  const std::lock_guard connect_lock(connect_mutex_);
  const std::shared_ptr<Session> all = of_all_ranks();
  {
    const std::lock_guard lock(mutex_);
    find_set(id, SetOrigin::added);
  }
  meet_to_remove(*all, id);
  if (const auto session = take_set(id, SetOrigin::added)) session->shutdown();
}

std::int32_t Sessions::connect_set(const std::vector<int>& ranks,
                                   const Session::Exchange& exchange) {
  const std::shared_ptr<Session> all = of_all_ranks();
  std::shared_ptr<Session> session = all->connect_process_set(ranks, exchange);
  return keep_set(next_.connected, ranks, std::move(session));
}

std::int32_t Sessions::keep_set(std::int32_t& next_id, std::vector<int> ranks,
                                std::shared_ptr<Session> session) {
  const std::lock_guard lock(mutex_);
  const std::int32_t id = next_id++;
  sets_[id] = {std::move(ranks), std::move(session)};
  return id;
}

void Sessions::leave_set(std::int32_t id) {
  if (const auto session = take_set(id, SetOrigin::connected)) session->shutdown();
}

std::shared_ptr<Session> Sessions::take_set(std::int32_t id, SetOrigin origin) {
  const std::lock_guard lock(mutex_);
  find_set(id, origin);
  std::shared_ptr<Session> session = std::move(sets_[id].session);
  sets_.erase(id);
  return session;
}

void Sessions::use_set(std::int32_t id) {
  if (id != kAllRanks) {
    const std::lock_guard lock(mutex_);
    find_usable_set(id);
  }
  used_set() = id;
}

const Sessions::ProcessSet& Sessions::find_set(std::int32_t id) const {
  const auto found = sets_.find(id);
  if (found != sets_.end()) return found->second;
  throw Error(
      StatusCode::invalid_argument,
      "there is no process set " + std::to_string(id) +
          "; it was never added, or has been removed: add it on every rank first, and trace "
          "anew what was compiled with a set that has been removed");
}

const Sessions::ProcessSet& Sessions::find_set(std::int32_t id, SetOrigin origin) const {
  const ProcessSet& set = find_set(id);
  if ((id >= kFirstConnected) == (origin == SetOrigin::connected)) return set;
  throw Error(StatusCode::invalid_argument,
              "process set " + std::to_string(id) +
                  (origin == SetOrigin::connected
                       ? " was added by all ranks; all of them remove it, none leaves it"
                       : " was connected by its own ranks, and the others do not know it; leave it "
                         "in place of removing it"));
}

const Sessions::ProcessSet& Sessions::find_usable_set(std::int32_t id) const {
  const ProcessSet& set = find_set(id);
  if (set.session != nullptr) return set;
  throw Error(StatusCode::invalid_argument,
              "this rank, " + std::to_string(session_->topology().rank) +
                  ", is not in process set " + std::to_string(id) + " (ranks " +
                  text_of(set.ranks) + "); only those may use it");
}

void Sessions::refuse_known(const std::vector<int>& ranks, int size) {
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  const std::lock_guard lock(mutex_);
  std::int32_t id = ranks == all ? kAllRanks : -1;
  for (const auto& [number, set] : sets_) {
    if (set.ranks == ranks && number < kFirstConnected) id = number;
  }
  if (id < 0) return;
  throw Error(StatusCode::invalid_argument, "process set " + std::to_string(id) +
                                                " has the ranks " + text_of(ranks) +
                                                " already; use that one");
}

}  // namespace scalecom
