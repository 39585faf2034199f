// Adasum over any Collectives.
//
// n ranks, S bytes. Each piece is cut in n parts. An all-to-all brings part r of all ranks to rank
// r, where they are the rows of a table. In each of log2(n) rounds, rounded up, rank r computes the
// products of its parts of two rows, an all-reduce of 24 bytes a pair and piece sums them over the
// parts, and each rank combines its parts. An all-gather brings the parts together: 2 (n-1)/n S
// bytes a rank and the products, as many as the recursive halving of the paper sends, for any n and
// over shared memory too. 2 S of memory. A piece's parts, and so its products, do not depend on
// what it is fused with.

#include "collective/adasum.hpp"

#include <algorithm>
#include <bit>

#include "collective/group.hpp"
#include "kernels/adasum.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kProducts = 3;  // of a pair: dot, norm of the first, norm of the second

std::size_t index(int value) { return static_cast<std::size_t>(value); }

double weight(double dot, double norm) { return norm == 0.0 ? 1.0 : 1.0 - dot / norm / 2.0; }

// Of the first rows of a round; the others wait.
std::size_t pairs_of(std::size_t rows) {
  const std::size_t surplus = rows - std::bit_floor(rows);
  return surplus > 0 ? surplus : rows / 2;
}

}  // namespace

// The packed vector: rank by rank its part of every piece.
class Adasum::Layout {
 public:
  Layout(std::span<const Piece> pieces, DataType dtype, int size, int rank)
      : pieces_(pieces), dtype_(dtype), size_(size), rank_(rank) {
    for (int part = 0; part < size; ++part) {
      bytes_per_rank_.push_back(0);
      for (const Piece& piece : pieces) bytes_per_rank_.back() += part_count(piece, part) * bytes();
    }
  }

  DataType dtype() const { return dtype_; }
  std::span<const Piece> pieces() const { return pieces_; }
  std::span<const std::int64_t> bytes_per_rank() const { return bytes_per_rank_; }
  std::int64_t own_bytes() const { return bytes_per_rank_[index(rank_)]; }
  std::int64_t own_count(const Piece& piece) const { return part_count(piece, rank_); }
  std::int64_t bytes() const { return size_of(dtype_); }

  /// visit(piece, byte of the packed vector, byte of the piece, elements) for all parts.
  template <class Visit>
  void for_each(const Visit& visit) const {
    std::int64_t packed = 0;
    for (int part = 0; part < size_; ++part) {
      for (const Piece& piece : pieces_) {
        const std::int64_t count = part_count(piece, part);
        const std::int64_t begin =
            part * (piece.count / size_) + std::min<std::int64_t>(part, piece.count % size_);
        visit(piece, packed, begin * bytes(), count);
        packed += count * bytes();
      }
    }
  }

 private:
  std::int64_t part_count(const Piece& piece, int part) const {
    return piece.count / size_ + (part < piece.count % size_ ? 1 : 0);
  }

  const std::span<const Piece> pieces_;
  const DataType dtype_;
  const int size_;
  const int rank_;
  std::vector<std::int64_t> bytes_per_rank_;
};

void Adasum::reduce(std::span<const Piece> pieces, DataType dtype, const WaitContext& context) {
  const Layout layout(pieces, dtype, size_, collectives_.rank());
  std::int64_t total = 0;
  for (const std::int64_t bytes : layout.bytes_per_rank()) total += bytes;
  const std::span<std::byte> packed = packed_.acquire(static_cast<std::size_t>(total));
  layout.for_each(
      [&](const Piece& piece, std::int64_t place, std::int64_t begin, std::int64_t count) {
        kernels::scale_copy(packed.data() + place, piece.input + begin, count, dtype, piece.before);
      });
  const auto own = static_cast<std::size_t>(layout.own_bytes());
  const std::span<std::byte> rows = rows_.acquire(own * index(size_));
  const std::vector<std::int64_t> bytes_per_row(index(size_), layout.own_bytes());
  collectives_.all_to_all(packed, layout.bytes_per_rank(), rows, bytes_per_row, context);
  combine(layout, rows.data(), context);
  collectives_.all_gather(rows.first(own), packed, layout.bytes_per_rank(), context);
  layout.for_each(
      [&](const Piece& piece, std::int64_t place, std::int64_t begin, std::int64_t count) {
        kernels::scale_copy(piece.output + begin, packed.data() + place, count, dtype, piece.after);
      });
}

// All rows into the first one.
void Adasum::combine(const Layout& layout, std::byte* rows, const WaitContext& context) {
  std::vector<std::byte*> left;
  for (int row = 0; row < size_; ++row) left.push_back(rows + row * layout.own_bytes());
  while (left.size() > 1) {
    const std::size_t pairs = pairs_of(left.size());
    // visit(part of the first row, of the second, elements, products) for each pair and piece.
    const auto for_each = [&](const auto& visit) {
      double* products = products_.data();
      for (std::size_t pair = 0; pair < pairs; ++pair) {
        std::int64_t begin = 0;
        for (const Piece& piece : layout.pieces()) {
          const std::int64_t count = layout.own_count(piece);
          visit(left[2 * pair] + begin, left[2 * pair + 1] + begin, count, products);
          begin += count * layout.bytes();
          products += kProducts;
        }
      }
    };
    products_.resize(kProducts * pairs * layout.pieces().size());
    for_each([&](const std::byte* a, const std::byte* b, std::int64_t count, double* products) {
      const auto [dot, norm_a, norm_b] = kernels::pair_products(a, b, count, layout.dtype());
      products[0] = dot;
      products[1] = norm_a;
      products[2] = norm_b;
    });
    collectives_.all_reduce(std::as_writable_bytes(std::span(products_)), DataType::float64,
                            ReduceOp::sum, context);
    for_each([&](std::byte* a, const std::byte* b, std::int64_t count, const double* products) {
      kernels::weighted_sum(a, weight(products[0], products[1]), b,
                            weight(products[0], products[2]), count, layout.dtype());
    });
    for (std::size_t pair = 1; pair <= pairs; ++pair) {
      left.erase(left.begin() + static_cast<std::ptrdiff_t>(pair));
    }
  }
}

}  // namespace scalecom
