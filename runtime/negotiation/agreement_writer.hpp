#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/wire.hpp"

namespace scalecom::negotiation {

/// Writes the entries of one agreement. Cached tensors with consecutive numbers and one step become
/// a run of a few bytes; steps are differences, as most tensors of a release are at the same one.
class AgreementWriter {
 public:
  explicit AgreementWriter(Writer& writer) : writer_(writer) {}

  /// `step` of compressed tensors only: it fits a run of any.
  void add_cached(std::int32_t number, std::optional<std::int64_t> step) {
    const bool joins =
        count_ > 0 && number == next_number_ && (!step || !has_run_step_ || *step == run_step_);
    if (!joins) {
      end_run();
      writer_.put_enum(AgreementEntry::cached_run);
      writer_.put_signed(number - next_number_);
    }
    ++count_;
    next_number_ = std::int64_t{number} + 1;
    if (step) {
      run_step_ = *step;
      has_run_step_ = true;
    }
  }

  void add_cached_extents(std::int32_t number, const std::vector<std::int64_t>& first_extents) {
    end_run();
    writer_.put_enum(AgreementEntry::cached_extents);
    put(static_cast<std::uint64_t>(number));
    write_extents(writer_, first_extents);
  }

  /// `announced`: what ranks that have not submitted it need, or null. The caller appends the first
  /// extents, if ranks choose theirs.
  void add_full(std::string_view name, bool gets_number, std::int64_t step,
                const TensorSignature* announced = nullptr) {
    end_run();
    writer_.put_enum(announced != nullptr ? AgreementEntry::announced : AgreementEntry::full);
    writer_.put_string(name);
    put(gets_number ? 1 : 0);
    put_step(step);
    if (announced != nullptr) write_signature(writer_, *announced);
  }

  void finish() {
    end_run();
    writer_.put_enum(AgreementEntry::last);
  }

 private:
  void put(std::uint64_t value) { writer_.put_varint(value); }
  void put_step(std::int64_t step) {
    write_step(writer_, step, last_step_);
    last_step_ = step;
  }
  void end_run() {
    if (count_ == 0) return;
    put(count_ - 1);
    put_step(has_run_step_ ? run_step_ : last_step_);
    count_ = 0;
    has_run_step_ = false;
  }

  Writer& writer_;
  std::uint64_t count_ = 0;  ///< tensors in the open run
  std::int64_t next_number_ = 0;
  std::int64_t run_step_ = 0;
  bool has_run_step_ = false;
  std::int64_t last_step_ = 0;
};

}  // namespace scalecom::negotiation
