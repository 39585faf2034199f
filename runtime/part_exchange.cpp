#include "runtime/part_exchange.hpp"

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "runtime/part_rows.hpp"
#include "runtime/tensor_memory.hpp"
#include "runtime/tensor_scales.hpp"

namespace scalecom {
namespace {

using Extents = std::vector<std::int64_t>;

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::int64_t sum_of(std::span<const std::int64_t> values) {
  return std::reduce(values.begin(), values.end(), std::int64_t{0});
}

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// A result that its ticket will own: as `like`, but with `rows` rows.
class Output {
 public:
  Output(const TensorView& like, std::int64_t rows) : view_(like) {
    view_.shape[0] = rows;
    data_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(view_.bytes()));
    view_.data = data_.get();
  }

  std::byte* data() const noexcept { return data_.get(); }
  std::int64_t count() const noexcept { return view_.count(); }
  void give_to(TicketState& ticket, Extents received_splits = {}) {
    ticket.set_output(std::move(data_), std::move(view_), std::move(received_splits));
  }

 private:
  std::unique_ptr<std::byte[]> data_;
  TensorView view_;
};

// Where the part of each tensor for (or from) each rank lies: in the packed vector, rank by rank,
// and in the tensor itself. In bytes.
class Layout {
 public:
  explicit Layout(std::size_t ranks) : per_rank_(ranks) {}

  // A tensor like `like` with so many rows for each rank.
  void add(std::span<const std::int64_t> rows, const TensorView& like) {
    Extents& bytes = bytes_.emplace_back();
    for (std::size_t rank = 0; rank < rows.size(); ++rank) {
      bytes.push_back(rows[rank] * row_bytes(like));
      per_rank_[rank] += bytes.back();
    }
  }

  const Extents& per_rank() const noexcept { return per_rank_; }
  std::size_t total() const { return static_cast<std::size_t>(sum_of(per_rank_)); }
  std::int64_t begin_of_rank(std::size_t rank) const {
    return sum_of(std::span(per_rank_).first(rank));
  }
  std::int64_t bytes(std::size_t tensor, std::size_t rank) const { return bytes_[tensor][rank]; }

  // Calls visit(tensor, rank, place in the packed vector, place in the tensor, bytes) for all
  // parts.
  template <class Visit>
  void for_each(const Visit& visit) const {
    std::int64_t packed = 0;
    std::vector<std::int64_t> inside(bytes_.size());
    for (std::size_t rank = 0; rank < per_rank_.size(); ++rank) {
      for (std::size_t tensor = 0; tensor < bytes_.size(); ++tensor) {
        const std::int64_t bytes = bytes_[tensor][rank];
        visit(tensor, rank, packed, inside[tensor], bytes);
        packed += bytes;
        inside[tensor] += bytes;
      }
    }
  }

 private:
  std::vector<Extents> bytes_;
  Extents per_rank_;
};

}  // namespace

void PartExchange::all_gather(std::span<const AgreedTensor* const> agreed,
                              std::span<PendingTensor* const> tensors, const WaitContext& context) {
  Layout layout(index(size_));
  std::vector<Output> outputs;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const Extents& rows = gathered_rows(*agreed[t], size_);
    layout.add(rows, tensors[t]->input);
    outputs.emplace_back(tensors[t]->input, sum_of(rows));
  }
  if (tensors.size() == 1) {
    const auto mine = static_cast<std::size_t>(layout.per_rank()[index(rank_)]);
    collectives_.all_gather({input_of(*tensors[0]), mine}, {outputs[0].data(), layout.total()},
                            layout.per_rank(), context);
  } else {
    const std::span<std::byte> all = packed_.acquire(layout.total());
    const auto mine = all.subspan(static_cast<std::size_t>(layout.begin_of_rank(index(rank_))),
                                  static_cast<std::size_t>(layout.per_rank()[index(rank_)]));
    std::byte* place = mine.data();
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      copy_bytes(place, input_of(*tensors[t]), layout.bytes(t, index(rank_)));
      place += layout.bytes(t, index(rank_));
    }
    collectives_.all_gather(mine, all, layout.per_rank(), context);
    layout.for_each([&](std::size_t tensor, std::size_t, std::int64_t packed, std::int64_t inside,
                        std::int64_t bytes) {
      copy_bytes(outputs[tensor].data() + inside, all.data() + packed, bytes);
    });
  }
  for (std::size_t t = 0; t < tensors.size(); ++t) outputs[t].give_to(*tensors[t]->ticket);
}

void PartExchange::reduce_scatter(const Batch& batch, std::span<PendingTensor* const> tensors,
                                  const WaitContext& context) {
  Layout layout(index(size_));
  std::vector<Output> outputs;
  for (const PendingTensor* tensor : tensors) {
    const Extents rows = even_rows(tensor->input.shape[0], size_);
    layout.add(rows, tensor->input);
    outputs.emplace_back(tensor->input, rows[index(rank_)]);
  }
  const std::int64_t element = size_of(batch.dtype);
  const std::span<std::byte> data = packed_.acquire(layout.total());
  layout.for_each([&](std::size_t tensor, std::size_t, std::int64_t packed, std::int64_t inside,
                      std::int64_t bytes) {
    kernels::scale_copy(data.data() + packed, input_of(*tensors[tensor]) + inside, bytes / element,
                        batch.dtype, input_scale(tensors[tensor]->signature));
  });
  collectives_.reduce_scatter(data, layout.per_rank(), batch.dtype, batch.op, context);
  const std::byte* part = data.data() + layout.begin_of_rank(index(rank_));
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    kernels::scale_copy(outputs[t].data(), part, outputs[t].count(), batch.dtype,
                        output_scale(tensors[t]->signature, size_));
    part += layout.bytes(t, index(rank_));
    outputs[t].give_to(*tensors[t]->ticket);
  }
}

void PartExchange::all_to_all(std::span<const AgreedTensor* const> agreed,
                              std::span<PendingTensor* const> tensors, const WaitContext& context) {
  Layout sent(index(size_));
  Layout received(index(size_));
  std::vector<Output> outputs;
  std::vector<Extents> splits;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const Extents& from = splits.emplace_back(received_rows(*agreed[t], rank_, size_));
    sent.add(tensors[t]->splits, tensors[t]->input);
    received.add(from, tensors[t]->input);
    outputs.emplace_back(tensors[t]->input, sum_of(from));
  }
  if (tensors.size() == 1) {
    collectives_.all_to_all({input_of(*tensors[0]), sent.total()}, sent.per_rank(),
                            {outputs[0].data(), received.total()}, received.per_rank(), context);
  } else {
    const std::span<std::byte> to = packed_.acquire(sent.total());
    const std::span<std::byte> from = unpacked_.acquire(received.total());
    sent.for_each([&](std::size_t tensor, std::size_t, std::int64_t packed, std::int64_t inside,
                      std::int64_t bytes) {
      copy_bytes(to.data() + packed, input_of(*tensors[tensor]) + inside, bytes);
    });
    collectives_.all_to_all(to, sent.per_rank(), from, received.per_rank(), context);
    received.for_each([&](std::size_t tensor, std::size_t, std::int64_t packed, std::int64_t inside,
                          std::int64_t bytes) {
      copy_bytes(outputs[tensor].data() + inside, from.data() + packed, bytes);
    });
  }
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    outputs[t].give_to(*tensors[t]->ticket, std::move(splits[t]));
  }
}

}  // namespace scalecom
