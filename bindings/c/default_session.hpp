#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "scalecom/scalecom.hpp"

namespace scalecom {

/// The process's session, shared so that a call in progress outlives a shutdown beside it. Any
/// thread.
class DefaultSession {
 public:
  /// Null before connect() and after disconnect(). Never waits for connect() beside it:
  /// callers may hold an interpreter's lock.
  std::shared_ptr<Session> find() {
    const std::lock_guard lock(mutex_);
    return session_;
  }

  std::shared_ptr<Session> get() {
    auto session = find();
    if (session == nullptr) {
      throw Error(StatusCode::unavailable, "scalecom has not been initialized; call init() first");
    }
    return session;
  }

  void connect() {
    const std::lock_guard connect_lock(connect_mutex_);
    if (find() != nullptr) return;
    std::shared_ptr<Session> session = Session::connect(scalecom::Config::from_environment());
    const std::lock_guard lock(mutex_);
    session_ = std::move(session);
  }

  void disconnect() {
    const std::lock_guard connect_lock(connect_mutex_);
    std::shared_ptr<Session> session;
    {
      const std::lock_guard lock(mutex_);
      session = std::move(session_);
    }
    if (session != nullptr) session->shutdown();
  }

 private:
  std::mutex connect_mutex_;
  std::mutex mutex_;
  std::shared_ptr<Session> session_;
};

}  // namespace scalecom
