#include "runtime/part_rows.hpp"

#include <fmt/format.h>

#include "base/error.hpp"

namespace scalecom {
namespace {

void check_extents(const AgreedTensor& agreed, int expected) {
  SCALECOM_ASSERT(agreed.first_extents.size() == static_cast<std::size_t>(expected),
                  fmt::format("{}: {} first extents, not {}", agreed.name,
                              agreed.first_extents.size(), expected));
}

}  // namespace

std::vector<std::int64_t> even_rows(std::int64_t rows, int size) {
  std::vector<std::int64_t> of_rank(static_cast<std::size_t>(size), rows / size);
  for (std::int64_t rank = 0; rank < rows % size; ++rank) {
    ++of_rank[static_cast<std::size_t>(rank)];
  }
  return of_rank;
}

const std::vector<std::int64_t>& gathered_rows(const AgreedTensor& agreed, int size) {
  check_extents(agreed, size);
  return agreed.first_extents;
}

std::vector<std::int64_t> received_rows(const AgreedTensor& agreed, int rank, int size) {
  check_extents(agreed, size * size);
  std::vector<std::int64_t> rows;
  for (int from = 0; from < size; ++from) {
    rows.push_back(agreed.first_extents[static_cast<std::size_t>(from * size + rank)]);
  }
  return rows;
}

}  // namespace scalecom
