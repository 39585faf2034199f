#include <algorithm>

#include "tools/bench/bench.hpp"
#include "tools/bench/values.hpp"

namespace scalecom::bench {
namespace {

// The calls of one operation on one size.
class DenseBench {
 public:
  DenseBench(Session& session, const Options& options, std::int64_t count)
      : session_(session),
        options_(options),
        topology_(session.topology()),
        input_(count, options.dtype),
        output_(count, options.dtype) {
    input_.fill_input(topology_.rank);
  }

  Timing time(bool is_in_place) {
    const auto prepare = [&] {
      if (!is_in_place) return;
      output_.fill_input(topology_.rank);
      finish(session_.barrier());  // Nobody's clock runs while others still fill.
    };
    return time_calls(options_, prepare, [&] { finish(submit(is_in_place)); });
  }

  std::int64_t count_wrong(bool is_in_place) {
    if (!options_.check) return 0;
    if (is_in_place) output_.fill_input(topology_.rank);
    const Ticket ticket = submit(is_in_place);
    finish(ticket);
    if (options_.operation == "all_gather") return wrong_in_gathered(ticket.output());
    if (options_.operation == "alltoall") return wrong_in_exchanged(ticket.output());
    if (options_.operation == "reduce_scatter") return wrong_in_part(ticket.output());
    return bench::count_wrong(output_.view(), [&](std::int64_t i) {
      return options_.operation == "broadcast" ? Values::input(i, options_.root)
                                               : expected_reduction(i, topology_.size, options_.op);
    });
  }

 private:
  Ticket submit(bool is_in_place) {
    if (options_.operation == "all_gather") return session_.all_gather("bench", input_.view());
    if (options_.operation == "broadcast") {
      if (!is_in_place) output_ = input_;
      return session_.broadcast("bench", output_.view(), options_.root);
    }
    if (options_.operation == "alltoall") return session_.all_to_all("bench", input_.view());
    const AllReduceOptions reduction = options_.reduction();
    if (options_.operation == "reduce_scatter") {
      return session_.reduce_scatter("bench", input_.view(), reduction);
    }
    return session_.all_reduce("bench", is_in_place ? output_.view() : input_.view(),
                               output_.view(), reduction);
  }

  std::int64_t wrong_in_gathered(const TensorView& gathered) const {
    return bench::count_wrong(gathered, [&](std::int64_t i) {
      return Values::input(i % input_.count(), static_cast<int>(i / input_.count()));
    });
  }

  std::int64_t wrong_in_exchanged(const TensorView& exchanged) const {
    const std::int64_t part = input_.count() / topology_.size;
    return bench::count_wrong(exchanged, [&](std::int64_t i) {
      return Values::input(topology_.rank * part + i % part, static_cast<int>(i / part));
    });
  }

  std::int64_t wrong_in_part(const TensorView& part) const {
    const std::int64_t rows = input_.count() / topology_.size;
    const std::int64_t longer = input_.count() % topology_.size;
    const std::int64_t begin =
        topology_.rank * rows + std::min<std::int64_t>(topology_.rank, longer);
    return bench::count_wrong(part, [&](std::int64_t i) {
      return expected_reduction(begin + i, topology_.size, options_.op);
    });
  }

  Session& session_;
  const Options& options_;
  const Topology& topology_;
  Values input_;
  Values output_;
};

double bus_factor(const std::string& operation, int size) {
  const double n = size;
  if (operation == "all_reduce") return 2.0 * (n - 1) / n;
  if (operation == "broadcast") return 1.0;
  return (n - 1) / n;
}

// A rank's elements: all_to_all gives every rank as many.
std::int64_t count_of_input(const Options& options, std::int64_t bytes, int size) {
  const std::int64_t count = std::max<std::int64_t>(1, bytes / size_of(options.dtype));
  if (options.operation != "alltoall") return count;
  return std::max<std::int64_t>(1, count / size) * size;
}

}  // namespace

Row run_dense(Session& session, const Options& options, std::int64_t bytes) {
  Row row;
  row.count = count_of_input(options, bytes, session.topology().size);
  row.bytes = row.count * size_of(options.dtype);
  row.bus_factor = bus_factor(options.operation, session.topology().size);
  DenseBench bench(session, options, row.count);
  if (options.operation == "all_gather") row.bytes *= session.topology().size;
  row.out_of_place = bench.time(false);
  row.in_place = bench.time(true);
  row.wrong = bench.count_wrong(false);
  row.wrong_in_place = bench.count_wrong(true);
  return row;
}

}  // namespace scalecom::bench
