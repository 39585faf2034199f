// Messages up the control tree: each node's merged requests.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "runtime/negotiation/impl.hpp"
#include "runtime/negotiation/messages.hpp"

namespace scalecom {
namespace {

using negotiation::has_own_first_extent;
using negotiation::refuse_message;
using negotiation::UpItem;

// Tensors in flight that one node knows at most: 4 times the default queue of a rank.
constexpr std::size_t kInFlightMax = std::size_t{1} << 22;

}  // namespace

// Whether it is that of the frame behind `last`; false: `last` has come again.
bool Negotiation::Impl::take_frame_number(Reader& message, std::uint64_t last) {
  const std::uint64_t frame = message.get_below(negotiation::kFrames, "frame");
  if (frame == last % negotiation::kFrames && last > 0) return false;
  if (frame == (last + 1) % negotiation::kFrames) return true;
  refuse_message(fmt::format("frame {} follows frame {}", frame, last));
}

void Negotiation::Impl::receive_requests(std::size_t member, Reader& reader) {
  std::uint64_t& last = members_[member].frame;
  if (!take_frame_number(reader, last)) return;
  ++last;
  const std::uint64_t generation = reader.get_varint();
  std::uint64_t expected = 0;
  while (!reader.is_at_end() && !has_ended_) {
    switch (static_cast<UpItem>(reader.get_below(negotiation::kUpItems, "item"))) {
      case UpItem::cached_run: take_request_run(member, generation, reader, expected); break;
      case UpItem::cached_extents: take_cached_extents(member, generation, reader); break;
      case UpItem::full: take_full_request(member, reader); break;
      case UpItem::split: take_split_request(member, reader); break;
      case UpItem::acknowledge: take_acknowledgement(member, reader); break;
      case UpItem::stall: take_stall_report(member, reader); break;
      case UpItem::end: take_end_request(reader); break;
      case UpItem::leave: take_leave(reader); break;
      case UpItem::report: take_report(member, reader); break;
      case UpItem::join: take_join(member, reader); break;
      case UpItem::ask: take_ask(); break;
      default: refuse_message("item 0 is not known");
    }
  }
}

void Negotiation::Impl::take_request_run(std::size_t member, std::uint64_t generation,
                                         Reader& reader, std::uint64_t& expected) {
  const auto offset = static_cast<std::uint64_t>(reader.get_signed());
  const std::uint64_t first = expected + offset;
  const std::uint64_t more = reader.get_varint();
  // A number that is not known ends the loop, whatever the count says.
  for (std::uint64_t i = 0; i <= more; ++i) {
    Tensor* tensor = table_.find_number(generation, first + i);
    if (tensor == nullptr || has_own_first_extent(tensor->cached.kind)) {
      refuse_message(
          fmt::format("cache number {} of generation {} is not known here (generation {}, "
                      "{} numbers)",
                      first + i, generation, table_.generation(), table_.cached_count()));
    }
    if (is_outdated(member, *tensor)) continue;
    check_not_arrived(member, *tensor);
    arrive(*tensor, member, tensor->cached);
  }
  expected = first + more + 1;
}

void Negotiation::Impl::take_cached_extents(std::size_t member, std::uint64_t generation,
                                            Reader& reader) {
  const std::uint64_t number = reader.get_varint();
  Tensor* tensor = table_.find_number(generation, number);
  if (tensor == nullptr || !has_own_first_extent(tensor->cached.kind)) {
    refuse_message(
        fmt::format("cache number {} of generation {} has no first extents", number, generation));
  }
  check_not_arrived(member, *tensor);
  take_extents(*tensor, tensor->cached.kind, member, reader);
  arrive(*tensor, member, tensor->cached);
}

void Negotiation::Impl::take_full_request(std::size_t member, Reader& reader) {
  Tensor& tensor = find_arriving(member, reader.get_string());
  TensorSignature signature = negotiation::read_signature(reader);
  if (is_outdated(member, tensor)) {
    Tensor forgotten;
    return take_extents(forgotten, signature.kind, member, reader);
  }
  take_extents(tensor, signature.kind, member, reader);
  if (tensor.is_cached() && negotiation::agree(tensor.cached, signature)) {
    arrive(tensor, member, tensor.cached);
  } else if (tensor.arrived == 0) {
    tensor.received = std::move(signature);
    arrive(tensor, member, tensor.received);
  } else {
    arrive(tensor, member, signature);
  }
}

void Negotiation::Impl::take_split_request(std::size_t member, Reader& reader) {
  Tensor& tensor = find_arriving(member, reader.get_string());
  const RankRange below = members_[member].ranks;
  std::vector<negotiation::SignatureGroup> groups;
  // Those that have joined are in none.
  const std::size_t count = reader.get_count("number of groups");
  if (count == 0) refuse_message(fmt::format("tensor {} has no groups", *tensor.name));
  for (std::size_t i = 0; i < count; ++i) {
    TensorSignature signature = negotiation::read_signature(reader);
    RankSet ranks = negotiation::read_ranks(reader, below.first, below.end);
    groups.push_back({std::move(signature), std::move(ranks)});
  }
  if (is_outdated(member, tensor)) return;
  arrive_split(tensor, member, std::move(groups));
}

void Negotiation::Impl::take_acknowledgement(std::size_t member, Reader& reader) {
  const std::uint64_t generation = reader.get_varint();
  if (generation > table_.generation() || generation < members_[member].acknowledged) {
    refuse_message(fmt::format("it acknowledges cache generation {} after {}, while {} is the last",
                               generation, members_[member].acknowledged, table_.generation()));
  }
  members_[member].acknowledged = generation;
}

negotiation::Tensor& Negotiation::Impl::find_arriving(std::size_t member, std::string_view name) {
  if (table_.size() >= kInFlightMax + 2 * table_.capacity()) {
    refuse_message(fmt::format("more than {} tensors are in flight", kInFlightMax));
  }
  Tensor& tensor = table_.get(name);
  check_not_arrived(member, tensor);
  return tensor;
}

// A member that runs the schedule says nothing about its tensors. What comes was sent before it
// knew the schedule: it takes the request back when it does, and sends it anew after the decision.
bool Negotiation::Impl::is_outdated(std::size_t member, const Tensor& tensor) const {
  if (!schedule_ || tensor.scheduled < 0) return false;
  if ((schedule_->reported >> member & 1) != 0) {
    refuse_message(
        fmt::format("tensor {} of the schedule is asked for after the report on it", *tensor.name));
  }
  return true;
}

void Negotiation::Impl::check_not_arrived(std::size_t member, const Tensor& tensor) const {
  if ((tensor.arrived >> member & 1) == 0) return;
  refuse_message(fmt::format("tensor {} is in flight twice", *tensor.name));
}

void Negotiation::Impl::write_requests(Writer& writer) {
  std::int64_t expected = 0;
  for (std::size_t i = 0; i < complete_.size();) {
    const Tensor& tensor = *complete_[i];
    const std::int32_t number = table_.number_of(tensor);
    if (number < 0 || tensor.common != &tensor.cached) {
      write_full_request(writer, tensor);
      ++i;
      continue;
    }
    if (has_own_first_extent(tensor.cached.kind)) {
      writer.put_enum(UpItem::cached_extents);
      writer.put_varint(static_cast<std::uint64_t>(number));
      write_extents(writer, tensor.extents);
      ++i;
      continue;
    }
    const std::size_t first = i++;
    while (i < complete_.size() && complete_[i]->common == &complete_[i]->cached &&
           !has_own_first_extent(complete_[i]->cached.kind) &&
           table_.number_of(*complete_[i]) == number + static_cast<std::int32_t>(i - first)) {
      ++i;
    }
    writer.put_enum(UpItem::cached_run);
    writer.put_signed(number - expected);
    writer.put_varint(i - first - 1);
    expected = number + static_cast<std::int64_t>(i - first);
  }
  for (Tensor* tensor : complete_) tensor->is_sent_up = true;
  complete_.clear();
}

void Negotiation::Impl::write_full_request(Writer& writer, const Tensor& tensor) const {
  writer.put_enum(tensor.groups.empty() ? UpItem::full : UpItem::split);
  writer.put_string(*tensor.name);
  if (tensor.groups.empty()) {
    write_signature(writer, *tensor.common);
    if (has_own_first_extent(tensor.common->kind)) {
      write_extents(writer, tensor.extents);
    }
    return;
  }
  writer.put_varint(tensor.groups.size());
  for (const auto& group : tensor.groups) {
    write_signature(writer, group.signature);
    write_ranks(writer, group.ranks);
  }
}

std::uint64_t Negotiation::Impl::acknowledged_below() const noexcept {
  std::uint64_t acknowledged = table_.generation();
  for (std::size_t member = 1; member < members_.size(); ++member) {
    acknowledged = std::min(acknowledged, members_[member].acknowledged);
  }
  return acknowledged;
}

void Negotiation::Impl::write_acknowledgement(Writer& writer) {
  const std::uint64_t acknowledged = acknowledged_below();
  if (acknowledged == acknowledged_up_) return;
  acknowledged_up_ = acknowledged;
  writer.put_enum(UpItem::acknowledge);
  writer.put_varint(acknowledged);
}

void Negotiation::Impl::send_up() {
  if (is_root()) return;
  Writer items;
  if (!has_ended_) {
    write_requests(items);
    write_joins(items);
    write_acknowledgement(items);
    write_stall_reports(items);
    write_steady_items(items);
    write_ask(items);
  }
  if (end_request_) {
    items.put_enum(UpItem::end);
    write_status(items, *end_request_);
    end_request_.reset();
  }
  if (items.is_empty()) return;
  Writer message;
  message.put_varint(++up_frame_ % negotiation::kFrames);
  message.put_varint(table_.generation());
  message.put_bytes(items.bytes());
  outgoing_.push_back({tree_.parent, message.take()});
}

}  // namespace scalecom
