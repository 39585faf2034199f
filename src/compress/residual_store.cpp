#include "compress/residual_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"

namespace scalecom {

void ResidualStore::Entry::filter_by(double discount) {
  if (beta > 0.0 && beta != discount && !is_zero) {
    const auto ratio = static_cast<float>(discount / beta);
    if (elsewhere != nullptr) elsewhere->scale(ratio, 1.0);
    for (float& value : values) value *= ratio;
  }
  beta = discount;
  is_rest = false;
}

void ResidualStore::Entry::settle(std::vector<float> rest, double discount) {
  if (rest.empty()) rest.assign(static_cast<std::size_t>(count_of(shape)), 0.0f);
  elsewhere.reset();
  values = std::move(rest);
  beta = discount;
  is_zero = std::ranges::all_of(values, [](float value) { return value == 0.0f; });
  is_rest = true;
}

std::vector<float>& ResidualStore::Entry::in_host() {
  if (elsewhere != nullptr) values = elsewhere->read();
  elsewhere.reset();
  values.resize(static_cast<std::size_t>(count_of(shape)));
  return values;
}

std::vector<float> ResidualStore::Entry::copy() const {
  if (elsewhere != nullptr) return elsewhere->read();
  std::vector<float> copied(values);
  copied.resize(static_cast<std::size_t>(count_of(shape)));
  return copied;
}

ResidualStore::Entry& ResidualStore::acquire(std::string_view name, const Shape& shape) {
  Entries::value_type* place = last_ == nullptr ? nullptr : last_->second.next;
  bool is_new = false;
  if (place == nullptr || place->first != name) {
    auto found = entries_.find(name);
    is_new = found == entries_.end();
    if (is_new) found = entries_.try_emplace(std::string(name)).first;
    place = &*found;
    if (last_ != nullptr) last_->second.next = place;
  }
  last_ = place;
  Entry& entry = place->second;
  if (!is_new && entry.shape == shape) return entry;
  if (!is_new) {
    ++reset_count_;
    log_warning(fmt::format(
        "tensor {}: its shape changed from ({}) to ({}); the residual of the old shape is dropped",
        name, fmt::join(entry.shape, ", "), fmt::join(shape, ", ")));
  }
  entry.shape = shape;
  entry.values.clear();
  entry.elsewhere.reset();
  entry.is_zero = true;
  return entry;
}

const ResidualStore::Entry* ResidualStore::find(std::string_view name) const {
  if (entries_.empty()) return nullptr;  // Asked of every dense tensor.
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

void ResidualStore::restore(std::string_view name, Entry entry) {
  SCALECOM_ASSERT((entry.is_zero && entry.values.empty()) ||
                      static_cast<std::int64_t>(entry.values.size()) == count_of(entry.shape),
                  fmt::format("{}: {} values for the shape ({})", name, entry.values.size(),
                              fmt::join(entry.shape, ", ")));
  if (const Entry* former = find(name); former != nullptr && !former->is_zero && entry.is_zero) {
    ++reset_count_;
    log_warning(fmt::format(
        "tensor {}: what was restored has no residual of it; the one from before is dropped",
        name));
  }
  entry.next = nullptr;  // Of another store, perhaps.
  entries_.insert_or_assign(std::string(name), std::move(entry));
}

}  // namespace scalecom
