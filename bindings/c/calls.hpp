#pragma once

#include <new>
#include <string>
#include <utility>

#include "bindings/c/sessions.hpp"
#include "scalecom/scalecom.hpp"

/// What the functions of the C interface share.
namespace scalecom::c {

/// Never destroyed: threads of the host program may still call while the process exits.
inline Sessions& sessions() {
  static auto& of_process = *new Sessions;
  return of_process;
}

/// Of the thread's last failed call.
struct Failure {
  int code = 0;
  std::string message;
};

inline Failure& last_failure() {
  thread_local Failure failure;
  return failure;
}

inline int fail(int code, std::string message) {
  last_failure() = {code, std::move(message)};
  return code;
}

inline int fail(StatusCode code, std::string message) {
  return fail(static_cast<int>(code), std::move(message));
}

inline int report(const Status& status) {
  return status.is_ok() ? 0 : fail(status.code(), status.message());
}

/// No exception crosses the C interface.
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(StatusCode::unavailable, "out of memory");
  } catch (const std::exception& error) {
    return fail(StatusCode::internal, error.what());
  }
}

/// Refuses what cannot be `count` elements: `arguments` names the lists, of which some `is_null`.
inline void check_list(std::int64_t count, bool is_null, const char* arguments) {
  if (count >= 0 && (count == 0 || !is_null)) return;
  throw Error(StatusCode::invalid_argument,
              std::string(arguments) + " is NULL or count is " + std::to_string(count));
}

/// The argument, which is not to be NULL.
template <class T>
T& deref(T* pointer, const char* argument) {
  if (pointer == nullptr) {
    throw Error(StatusCode::invalid_argument, std::string(argument) + " is NULL");
  }
  return *pointer;
}

}  // namespace scalecom::c
