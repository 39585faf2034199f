#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/jax_ffi/xla_ffi.hpp"
#include "scalecom/c_api.h"
#include "scalecom/device.hpp"
#include "scalecom/status.hpp"

/// A call of a handler, in the terms of scalecom's C interface.
namespace scalecom::xla {

/// What ends a handler: XLA makes an exception of the framework of it.
class CallError : public std::runtime_error {
 public:
  CallError(ErrorCode code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Where the arguments and results of a call are, as scalecom_tensor has it.
struct Place {
  std::int32_t device_kind = static_cast<std::int32_t>(DeviceKind::host);
  std::int32_t device_index = 0;
  void* stream = nullptr;
};

/// For whom a handler was registered.
enum class Platform { host, cuda };

/// Throws the last error of this thread's calls of the C interface, unless `status` is 0.
void check(int status);

/// The arguments or results but the tokens, which only make an order. Memory and shapes are
/// borrowed. Throws CallError for an element type that scalecom lacks.
std::vector<scalecom_tensor> read_tensors(const Buffers& buffers, const Place& place);

/// The bytes of an attribute that is an array. Throws CallError where there is none of this name.
const Array& find_array(const Attributes& attributes, const std::string& name);

/// The attribute "names": `count` names that end by a zero byte each. Borrowed.
std::vector<const char*> read_names(const Attributes& attributes, std::size_t count);

/// The tickets of a call. All of them are waited for, whatever happens: they work on memory that
/// XLA takes back at the end of the call; on a CUDA device, behind what it has enqueued by then.
class Tickets {
 public:
  explicit Tickets(const Place& place) : place_(place) {}
  Tickets(const Tickets&) = delete;
  Tickets& operator=(const Tickets&) = delete;
  ~Tickets();

  /// Room for `count` more tickets, until the next add(), for a function of the C interface that
  /// submits. What it leaves null has not been submitted.
  scalecom_ticket** add(std::size_t count = 1);
  scalecom_ticket* at(std::size_t number) const { return tickets_[number]; }
  /// Returns when all have completed, which on a CUDA device is before their results are there:
  /// what the call's stream is given afterwards comes behind them. The session bounds the time.
  /// Throws the first one's error.
  void wait();

 private:
  /// Of the next one, well or badly: a device may be at work in either case. Returns its status.
  int finish_next();

  const Place place_;
  std::vector<scalecom_ticket*> tickets_;
  std::size_t finished_ = 0;
};

/// Runs a handler's body: answers a question for metadata, checks the version of the interface,
/// finds the place, and makes an Error of what is thrown. No exception leaves it.
Error* answer(Call* call, Platform platform, void (*body)(const Call&, const Place&)) noexcept;

}  // namespace scalecom::xla
