// The stream from rank 0: agreements and mismatches in one order, applied by every rank alike.
#include <fmt/format.h>

#include <utility>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"
#include "runtime/negotiation/ready_tensors.hpp"

namespace scalecom {
namespace {

using negotiation::AgreementEntry;
using negotiation::DownItem;
using negotiation::has_own_first_extent;
using negotiation::refuse_message;

}  // namespace

void Negotiation::Impl::receive_stream(const ControlMessage& message) {
  Reader reader(message);
  if (!take_frame_number(reader, down_frame_)) return;
  while (!reader.is_at_end() && !has_ended_) apply_item(reader);
  ++down_frame_;
  for (const int child : tree_.children) outgoing_.push_back({child, message});
}

void Negotiation::Impl::send_down(const Writer& items) {
  if (items.is_empty()) return;
  Writer message;
  message.put_varint(++down_frame_ % negotiation::kFrames);
  message.put_bytes(items.bytes());
  for (const int child : tree_.children) outgoing_.push_back({child, message.bytes()});
}

void Negotiation::Impl::apply_item(Reader& reader) {
  const auto item = static_cast<DownItem>(reader.get_below(negotiation::kDownItems, "item"));
  const bool is_order = item == DownItem::agreement || item == DownItem::mismatch ||
                        item == DownItem::generation || item == DownItem::schedule ||
                        item == DownItem::joined || item == DownItem::fusion;
  if (is_order && schedule_) refuse_message("it orders tensors while a schedule does");
  switch (item) {
    case DownItem::agreement: return apply_agreement(reader);
    case DownItem::mismatch: return apply_mismatch(reader);
    case DownItem::generation: return apply_generation(reader);
    case DownItem::end: return apply_end(reader);
    case DownItem::schedule: return apply_schedule(reader);
    case DownItem::stop: return apply_stop(reader);
    case DownItem::decision: return apply_decision(reader);
    case DownItem::joined: return apply_joined(reader);
    case DownItem::fusion: return apply_fusion(reader);
    case DownItem::answer: return;  // It has been heard.
  }
  refuse_message("item 0 is not known");
}

void Negotiation::Impl::apply_agreement(Reader& reader) {
  const std::uint64_t sequence = reader.get_varint();
  if (sequence != sequence_ + 1) {
    refuse_message(fmt::format("agreement {} follows agreement {}", sequence, sequence_));
  }
  sequence_ = sequence;
  Agreement agreement;
  agreement.sequence = sequence;
  std::uint64_t expected = 0;
  std::int64_t step = 0;
  for (bool is_last = false; !is_last;) {
    const auto entry =
        static_cast<AgreementEntry>(reader.get_below(negotiation::kAgreementEntries, "entry"));
    switch (entry) {
      case AgreementEntry::last: is_last = true; break;
      case AgreementEntry::cached_run: apply_run(reader, expected, step, agreement.tensors); break;
      case AgreementEntry::cached_extents: apply_cached_extents(reader, agreement.tensors); break;
      case AgreementEntry::full: apply_full(reader, false, step, agreement.tensors); break;
      case AgreementEntry::announced: apply_full(reader, true, step, agreement.tensors); break;
    }
  }
  negotiation::order_by_priority(agreement.tensors);
  push_agreement(std::move(agreement));
}

void Negotiation::Impl::apply_run(Reader& reader, std::uint64_t& expected, std::int64_t& step,
                                  std::vector<AgreedTensor>& agreed) {
  const auto offset = static_cast<std::uint64_t>(reader.get_signed());
  const std::uint64_t first = expected + offset;
  const std::uint64_t more = reader.get_below(table_.cached_count(), "number of cached tensors");
  step = read_step(reader, step);
  for (std::uint64_t i = 0; i <= more; ++i) {
    Tensor& tensor = find_numbered(first + i);
    check_agreed_by_number(tensor, !has_own_first_extent(tensor.cached.kind));
    agree_on(tensor, is_compressed(tensor.cached) ? step : 0, {}, agreed);
  }
  expected = first + more + 1;
}

void Negotiation::Impl::apply_cached_extents(Reader& reader, std::vector<AgreedTensor>& agreed) {
  Tensor& tensor = find_numbered(reader.get_varint());
  check_agreed_by_number(tensor, has_own_first_extent(tensor.cached.kind));
  agree_on(tensor, 0, read_first_extents(reader, tensor.cached.kind), agreed);
}

void Negotiation::Impl::check_agreed_by_number(const Tensor& tensor, bool is_entry_of_kind) const {
  const bool has_request = tensor.common == &tensor.cached;
  if (is_entry_of_kind && (has_request || (tensor.arrived == 0 && own_join_))) return;
  refuse_message(
      fmt::format("tensor {} was agreed on by its cache number, but is not in flight "
                  "with the cached signature",
                  *tensor.name));
}

void Negotiation::Impl::apply_full(Reader& reader, bool is_announced, std::int64_t& step,
                                   std::vector<AgreedTensor>& agreed) {
  const std::string_view name = reader.get_string();
  const bool gets_number = reader.get_below(2, "cache flag") == 1;
  step = read_step(reader, step);
  Tensor* tensor = is_announced && own_join_ ? &table_.get(name) : table_.find(name);
  if (is_announced) {
    TensorSignature announced = negotiation::read_signature(reader);
    if (tensor != nullptr && tensor->arrived == 0) {
      tensor->received = std::move(announced);
      tensor->common = &tensor->received;
    }
  }
  if (tensor == nullptr || tensor->common == nullptr) {
    refuse_message(fmt::format("tensor {} was agreed on, but is not in flight here", name));
  }
  const TensorSignature& signature = (tensor->arrived & 1) != 0 ? tensor->local : *tensor->common;
  std::vector<std::int64_t> first_extents = read_first_extents(reader, signature.kind);
  if (gets_number) {
    if (table_.room() == 0 || table_.number_of(*tensor) >= 0) {
      refuse_message(fmt::format("tensor {} gets a cache number that it cannot have", name));
    }
    table_.assign_number(*tensor);
  }
  if (tensor->is_cached()) tensor->cached = signature;
  agree_on(*tensor, is_compressed(signature) ? step : 0, std::move(first_extents), agreed);
}

negotiation::Tensor& Negotiation::Impl::find_numbered(std::uint64_t number) {
  Tensor* tensor = table_.find_number(table_.generation(), number);
  if (tensor == nullptr) {
    refuse_message(fmt::format("cache number {} is not one of {}", number, table_.cached_count()));
  }
  return *tensor;
}

std::vector<std::int64_t> Negotiation::Impl::read_first_extents(Reader& reader,
                                                                OperationKind kind) const {
  std::vector<std::int64_t> extents(static_cast<std::size_t>(options_.size) *
                                    first_extents_of_rank(kind, options_.size));
  read_extents(reader, extents);
  return extents;
}

// A decision finds the request of the whole subtree, or none of a subtree that has joined.
bool Negotiation::Impl::is_expected(const Tensor& tensor) const noexcept {
  if (tensor.arrived == 0) return own_join_.has_value();
  return tensor.is_sent_up && (own_join_ || (tensor.arrived & 1) != 0);
}

void Negotiation::Impl::agree_on(Tensor& tensor, std::int64_t step,
                                 std::vector<std::int64_t> first_extents,
                                 std::vector<AgreedTensor>& agreed) {
  if (!is_expected(tensor)) {
    refuse_message(fmt::format("tensor {} was agreed on before it was submitted", *tensor.name));
  }
  if ((tensor.arrived & 1) != 0) {
    --own_requests_;
    agreed.push_back(
        {std::move(tensor.local_name), std::move(tensor.local), step, std::move(first_extents)});
  } else {
    TensorSignature signature = tensor.common != nullptr ? *tensor.common : tensor.cached;
    const bool has_rows = !has_own_first_extent(signature.kind) || signature.shape.empty();
    if (!has_rows) signature.shape[0] = 0;
    agreed.push_back({*tensor.name, std::move(signature), step, std::move(first_extents), true});
  }
  table_.finish(tensor);
}

void Negotiation::Impl::apply_mismatch(Reader& reader) {
  const std::string_view name = reader.get_string();
  const std::string_view text = reader.get_string();
  Tensor* tensor = table_.find(name);
  if (tensor == nullptr && own_join_) return;
  if (tensor == nullptr || !is_expected(*tensor)) {
    refuse_message(fmt::format("tensor {} differs, but was not submitted", name));
  }
  if ((tensor->arrived & 1) != 0) {
    --own_requests_;
    events_.emplace_back(Mismatch{std::move(tensor->local_name), std::string(text)});
  }
  table_.finish(*tensor);
}

void Negotiation::Impl::apply_generation(Reader& reader) {
  const std::uint64_t generation = reader.get_varint();
  if (generation != table_.generation() + 1) {
    refuse_message(
        fmt::format("cache generation {} follows generation {}", generation, table_.generation()));
  }
  table_.start_generation();
}

void Negotiation::Impl::apply_end(Reader& reader) {
  events_.emplace_back(SessionEnd{negotiation::read_status(reader)});
  end_request_.reset();
  has_ended_ = true;
}

}  // namespace scalecom
