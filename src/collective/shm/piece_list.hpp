#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "collective/collectives.hpp"

namespace scalecom {

/// Bytes [begin, end) of a vector.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t size() const noexcept { return end - begin; }
  /// What is in both; empty and within this one if nothing is.
  ByteRange overlap(const ByteRange& other) const noexcept {
    const std::size_t first = std::min(end, std::max(begin, other.begin));
    return {first, std::max(first, std::min(end, other.end))};
  }
};

/// Pieces seen as one vector of bytes, of which any range of whole elements can be copied out or
/// in.
class PieceList {
 public:
  PieceList(std::vector<Piece> pieces, DataType dtype) : pieces_(std::move(pieces)), dtype_(dtype) {
    ends_.reserve(pieces_.size());
    std::size_t end = 0;
    for (const Piece& piece : pieces_) {
      end += static_cast<std::size_t>(piece.count * size_of(dtype));
      ends_.push_back(end);
    }
  }

  std::size_t size() const noexcept { return pieces_.size(); }
  std::size_t bytes() const noexcept { return ends_.empty() ? 0 : ends_.back(); }

  /// Pieces that lie wholly before `end`.
  std::size_t pieces_before(std::size_t end) const {
    return static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), end) -
                                    ends_.begin());
  }

  /// destination = before(input) of [begin, end).
  void load(std::byte* destination, std::size_t begin, std::size_t end) const {
    for_each(begin, end, [&](const Piece& piece, std::size_t offset, std::size_t bytes) {
      kernels::scale_copy(destination, piece.input + offset, count(bytes), dtype_, piece.before);
      destination += bytes;
    });
  }

  /// before(input) of [begin, end): where it lies when that is one place and nothing is to be
  /// scaled, else copied to `scratch`.
  const std::byte* read(std::byte* scratch, std::size_t begin, std::size_t end) const {
    const std::size_t i = pieces_before(begin);
    if (i < pieces_.size() && end <= ends_[i] && pieces_[i].before.is_identity()) {
      return pieces_[i].input + (begin - (i == 0 ? 0 : ends_[i - 1]));
    }
    load(scratch, begin, end);
    return scratch;
  }

  /// output of [begin, end) = after(source).
  void store(const std::byte* source, std::size_t begin, std::size_t end) const {
    for_each(begin, end, [&](const Piece& piece, std::size_t offset, std::size_t bytes) {
      kernels::scale_copy(piece.output + offset, source, count(bytes), dtype_, piece.after);
      source += bytes;
    });
  }

 private:
  template <class Function>
  void for_each(std::size_t begin, std::size_t end, Function function) const {
    for (std::size_t i = pieces_before(begin); begin < end; ++i) {
      const std::size_t start = i == 0 ? 0 : ends_[i - 1];
      const std::size_t stop = std::min(end, ends_[i]);
      if (stop > begin) function(pieces_[i], begin - start, stop - begin);
      begin = std::max(begin, stop);
    }
  }

  std::int64_t count(std::size_t bytes) const noexcept {
    return static_cast<std::int64_t>(bytes) / size_of(dtype_);
  }

  const std::vector<Piece> pieces_;
  const DataType dtype_;
  std::vector<std::size_t> ends_;
};

}  // namespace scalecom
