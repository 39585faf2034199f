#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "scalecom/scalecom.hpp"

namespace scalecom {

/// The process's session and those of its process sets, shared so that a call in progress outlives
/// a shutdown beside it. Any thread. Throws Error(unavailable) where there is none to use, and
/// Error(invalid_argument) for a process set that is not there or that this rank is not in.
class Sessions {
 public:
  /// Null before connect() and after disconnect(). Never waits for connect() beside it: callers may
  /// hold an interpreter's lock.
  std::shared_ptr<Session> find();
  std::shared_ptr<Session> of_all_ranks();
  /// The one that this thread uses.
  std::shared_ptr<Session> get();

  /// Error(shut_down) where disconnect() is called while it waits for other ranks.
  void connect();
  void disconnect();

  /// Config::nccl_offered of what connects from now on.
  void offer_nccl(std::string path);
  /// The environment's, with that.
  Config read_config();

  /// By all ranks in one order; returns its number: 1, 2, ... in this session, none twice, so that
  /// a program that was compiled for a removed set never uses another one.
  std::int32_t add_set(std::vector<int> ranks);
  /// By all ranks in one order; they meet.
  void remove_set(std::int32_t id);
  /// By the set's own ranks, of which this is one; the number is this rank's own.
  std::int32_t connect_set(const std::vector<int>& ranks, const Session::Exchange& exchange);
  /// Ends a connected set for all of its ranks.
  void leave_set(std::int32_t id);
  /// This thread uses the set from now on; 0: all ranks.
  void use_set(std::int32_t id);

 private:
  static constexpr std::int32_t kFirstConnected = 1 << 30;
  struct ProcessSet {
    std::vector<int> ranks;            ///< in rising order
    std::shared_ptr<Session> session;  ///< null where this rank is not in it
  };
  /// Of the next sets; those that their own ranks connect count apart, as the others know nothing
  /// of them.
  struct Numbers {
    std::int32_t added = 1;
    std::int32_t connected = kFirstConnected;
  };
  /// Who made a set: added by all ranks, or connected by its own.
  enum class SetOrigin { added, connected };
  const ProcessSet& find_set(std::int32_t id) const;
  const ProcessSet& find_set(std::int32_t id, SetOrigin origin) const;
  const ProcessSet& find_usable_set(std::int32_t id) const;
  /// Under the number next_id, one of next_, which is then the following one.
  std::int32_t keep_set(std::int32_t& next_id, std::vector<int> ranks,
                        std::shared_ptr<Session> session);
  std::shared_ptr<Session> take_set(std::int32_t id, SetOrigin origin);
  void refuse_known(const std::vector<int>& ranks, int size);

  std::mutex connect_mutex_;
  std::mutex mutex_;
  std::stop_source called_off_;  ///< of the connect() under way
  int disconnecting_ = 0;        ///< calls of disconnect() that wait for it
  std::string nccl_offered_;
  std::shared_ptr<Session> session_;
  std::map<std::int32_t, ProcessSet> sets_;
  Numbers next_;
};

}  // namespace scalecom
