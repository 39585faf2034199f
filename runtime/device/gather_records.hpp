#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "collective/collectives.hpp"

namespace scalecom {

/// Every rank's `mine`, in rank order. All `size` ranks call it, with nothing under way in `host`.
template <class Record>
std::vector<Record> gather_records(const Record& mine, Collectives& host, std::size_t size,
                                   const WaitContext& context) {
  static_assert(std::is_trivially_copyable_v<Record>);
  std::vector<Record> records(size);
  const auto rank = static_cast<std::size_t>(host.rank());
  records[rank] = mine;
  const std::vector<std::int64_t> bytes(size, sizeof(Record));
  const auto all = std::as_writable_bytes(std::span(records));
  host.all_gather(all.subspan(rank * sizeof(Record), sizeof(Record)), all, bytes, context);
  return records;
}

}  // namespace scalecom
