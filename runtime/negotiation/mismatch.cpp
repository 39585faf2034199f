#include "runtime/negotiation/mismatch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace scalecom::negotiation {
namespace {

constexpr std::size_t kShownValues = 8;
constexpr std::size_t kShownDimensions = 16;

std::string text_of(const Shape& shape, bool is_first_free) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size() && i < kShownDimensions; ++i) {
    if (i > 0) text += ", ";
    text += i == 0 && is_first_free ? "any" : std::to_string(shape[i]);
  }
  if (shape.size() > kShownDimensions) {
    text += fmt::format(", ... ({} dimensions)", shape.size());
  }
  return text + "]";
}

std::string text_of(const Compression& compression) {
  if (compression.mode == CompressionMode::none) return "none";
  return fmt::format("{} (rate {}, beta {}, {} warm-up steps, {} ramp steps, {} values, guard {})",
                     to_string(compression.mode), compression.rate, compression.beta,
                     compression.warmup_steps, compression.ramp_steps,
                     to_string(compression.values), compression.guard);
}

/// One field of a signature as people know it.
struct Field {
  const char* name;
  std::string (*text)(const TensorSignature&);
};

const std::array<Field, 11> kFields = {{
    {"operation", [](const TensorSignature& s) { return std::string(to_string(s.kind)); }},
    {"dtype", [](const TensorSignature& s) { return std::string(to_string(s.dtype)); }},
    {"shape",
     [](const TensorSignature& s) { return text_of(s.shape, has_own_first_extent(s.kind)); }},
    {"op", [](const TensorSignature& s) { return std::string(to_string(s.op)); }},
    {"root", [](const TensorSignature& s) { return std::to_string(s.root); }},
    {"device",
     [](const TensorSignature& s) {
       return std::string(s.device == DeviceKind::host ? "host" : "cuda");
     }},
    {"prescale", [](const TensorSignature& s) { return fmt::format("{}", s.prescale); }},
    {"postscale", [](const TensorSignature& s) { return fmt::format("{}", s.postscale); }},
    {"compression", [](const TensorSignature& s) { return text_of(s.compression); }},
    {"first step (of the restored residual)",
     [](const TensorSignature& s) { return std::to_string(s.first_step); }},
    {"priority", [](const TensorSignature& s) { return std::to_string(s.priority); }},
}};

struct FieldValue {
  std::string text;
  RankSet ranks;
};

std::vector<FieldValue> values_of(const Field& field, const std::vector<SignatureGroup>& groups) {
  std::vector<FieldValue> values;
  for (const SignatureGroup& group : groups) {
    std::string text = field.text(group.signature);
    const auto known = std::find_if(values.begin(), values.end(),
                                    [&](const FieldValue& value) { return value.text == text; });
    if (known == values.end()) {
      values.push_back({std::move(text), group.ranks});
    } else {
      known->ranks.add(group.ranks);
    }
  }
  std::sort(values.begin(), values.end(), [](const FieldValue& a, const FieldValue& b) {
    return a.ranks.ranges().front().first < b.ranks.ranges().front().first;
  });
  return values;
}

// See Negotiation::Impl::refuse_if_impossible().
std::string describe_refusal(const std::string& name, const TensorSignature& signature) {
  if (signature.kind == OperationKind::broadcast) {
    return fmt::format(
        "tensor {}: rank {}, the root of this broadcast, has joined and has nothing to broadcast. "
        "Broadcast before that rank calls join(), or from the rank that joins last",
        name, ~signature.root);
  }
  return fmt::format(
      "tensor {}: it is on a CUDA device, and a rank has joined that has used none and does not "
      "know where to put zeros. Give it a device, by join(device) or a CUDA tensor before, or move "
      "the tensors to the host's memory",
      name);
}

std::string describe_values(const std::vector<FieldValue>& values) {
  std::string text;
  for (std::size_t i = 0; i < values.size() && i < kShownValues; ++i) {
    if (i > 0) text += "; ";
    text += fmt::format("{} on {}", values[i].text, describe(values[i].ranks));
  }
  if (values.size() > kShownValues) {
    text += fmt::format("; and {} other values", values.size() - kShownValues);
  }
  return text;
}

}  // namespace

std::string describe_mismatch(const std::string& name, const std::vector<SignatureGroup>& groups) {
  for (const SignatureGroup& group : groups) {
    if (group.signature.root < 0) return describe_refusal(name, group.signature);
  }
  std::string text = "tensor " + name + ": ";
  std::string names;
  for (const Field& field : kFields) {
    const std::vector<FieldValue> values = values_of(field, groups);
    if (values.size() < 2) continue;
    if (!names.empty()) {
      text += ". ";
      names += " and ";
    }
    text += fmt::format("{} differs between ranks: {}", field.name, describe_values(values));
    names += field.name;
  }
  return text + ". Submit it with the same " + names + " on every rank";
}

std::string describe_change(const TensorSignature& expected, const TensorSignature& got) {
  std::string text;
  for (const Field& field : kFields) {
    const std::string before = field.text(expected);
    const std::string now = field.text(got);
    if (before == now) continue;
    if (!text.empty()) text += " and ";
    text += fmt::format("{} {} instead of {}", field.name, now, before);
  }
  return text;
}

}  // namespace scalecom::negotiation
