#include "collective/collectives.hpp"

namespace scalecom {

void Collectives::all_reduce_pieces(std::span<const Piece> pieces, DataType dtype, ReduceOp op,
                                    const PiecesDone& done, const WaitContext& context) {
  const auto bytes_of = [dtype](const Piece& piece) {
    return static_cast<std::size_t>(piece.count * size_of(dtype));
  };
  if (pieces.size() == 1) {
    const Piece& alone = pieces.front();
    kernels::scale_copy(alone.output, alone.input, alone.count, dtype, alone.before);
    all_reduce({alone.output, bytes_of(alone)}, dtype, op, context);
    kernels::scale_copy(alone.output, alone.output, alone.count, dtype, alone.after);
    done(1);
    return;
  }
  std::size_t bytes = 0;
  for (const Piece& piece : pieces) bytes += bytes_of(piece);
  const std::span<std::byte> packed = packed_.acquire(bytes);
  std::byte* place = packed.data();
  for (const Piece& piece : pieces) {
    kernels::scale_copy(place, piece.input, piece.count, dtype, piece.before);
    place += bytes_of(piece);
  }
  all_reduce(packed, dtype, op, context);
  place = packed.data();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    kernels::scale_copy(pieces[i].output, place, pieces[i].count, dtype, pieces[i].after);
    place += bytes_of(pieces[i]);
    done(i + 1);
  }
}

}  // namespace scalecom
