#include <vector>

#include "collective/shm/shm_collectives.hpp"
#include "kernels/select.hpp"
#include "runtime/tuning/measure.hpp"

namespace scalecom {
namespace {

// The passes of one rank's sharded step: it selects an n-th, gathers the rest and writes the
// result.
class Passes {
 public:
  Passes(int ranks, const PassThreads& threads, std::int64_t elements)
      : ranks_(ranks),
        threads_(threads),
        elements_(elements),
        gradient_(static_cast<std::size_t>(elements)),
        residual_(gradient_.size()),
        result_(gradient_.size()),
        offsets_(gradient_.size() / kShortChunk),
        values_(offsets_.size()),
        kept_(offsets_.size()) {
    for (std::size_t i = 0; i < gradient_.size(); ++i) {
      gradient_[i] = static_cast<float>(i * 7 % 101);
    }
  }

  void select_all(std::int64_t chunk) { select({0, elements_ / chunk}, chunk); }

  void sweep(std::int64_t chunk) {
    for_parts(chunk, [&](const Part& part) {
      const std::int64_t own_end = part.begin + (part.end - part.begin) / ranks_;
      select({part.begin, own_end}, chunk);
      gather({own_end, part.end}, chunk);
    });
  }

  void fill(std::int64_t chunk) {
    for_parts(chunk, [&](const Part& part) {
      kernels::widen(kept_.data() + part.begin, value(part.begin), DataType::float32,
                     part.end - part.begin);
      float* const result = result_.data() + part.begin * chunk;
      kernels::fill_selected(std::as_writable_bytes(std::span(result, 1)).data(), DataType::float32,
                             (part.end - part.begin) * chunk, chunk, offsets_.data() + part.begin,
                             kept_.data() + part.begin, elements_ * size_of(DataType::float32));
    });
  }

 private:
  // Chunks [begin, end).
  struct Part {
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };

  // One for each thread.
  template <class Body>
  void for_parts(std::int64_t chunk, const Body& body) {
    const std::int64_t chunks = elements_ / chunk;
    if (!threads_.run) return body(Part{0, chunks});
    threads_.run([&](std::size_t i) {
      const auto place = static_cast<std::int64_t>(i);
      body(Part{chunks * place / threads_.count, chunks * (place + 1) / threads_.count});
    });
  }

  void select(const Part& part, std::int64_t chunk) {
    kernels::select_and_sweep(residual_.data() + part.begin * chunk, gradient_of(part, chunk), 1.0f,
                              chunk, offsets_.data() + part.begin, taken_by(part));
  }
  void gather(const Part& part, std::int64_t chunk) {
    kernels::gather_and_sweep(residual_.data() + part.begin * chunk, gradient_of(part, chunk), 1.0f,
                              chunk, offsets_.data() + part.begin, taken_by(part));
  }
  kernels::Gradient gradient_of(const Part& part, std::int64_t chunk) {
    return {std::as_bytes(std::span(gradient_)).data() +
                part.begin * chunk * size_of(DataType::float32),
            DataType::float32, (part.end - part.begin) * chunk};
  }
  kernels::Selected taken_by(const Part& part) {
    return {.values = value(part.begin), .kept = kept_.data() + part.begin};
  }
  std::byte* value(std::int64_t chunk) {
    return std::as_writable_bytes(std::span(values_)).data() + chunk * size_of(DataType::float32);
  }

  const std::int64_t ranks_;
  const PassThreads& threads_;
  const std::int64_t elements_;
  std::vector<float> gradient_;
  std::vector<float> residual_;
  std::vector<float> result_;
  std::vector<std::uint16_t> offsets_;
  std::vector<float> values_;
  std::vector<float> kept_;
};

// Of a pass until all ranks of the host have made it: they share its memory, and maybe its cores. A
// row of them, as a rank may leave a meeting late and find the others' passes done.
double slowest_s(Board& board, int calls, const WaitContext& context,
                 const std::function<void()>& pass) {
  ShmCollectives everyone(board);
  const auto meet = [&] {
    float nothing = 0;
    everyone.all_reduce(std::as_writable_bytes(std::span(&nothing, 1)), DataType::float32,
                        ReduceOp::sum, context);
  };
  meet();
  const TimePoint begin = Clock::now();
  for (int i = 0; i < calls; ++i) {
    pass();
    meet();
  }
  return std::chrono::duration<double>(Clock::now() - begin).count() / calls;
}

}  // namespace

void measure_kernels(Board& board, int ranks, const PassThreads& threads,
                     const MeasurementPlan& plan, const WaitContext& context, Samples& samples) {
  const std::int64_t elements = plan.pass_elements;
  Passes passes(ranks, threads, elements);
  const int calls = (plan.calls + 1) / 2;
  const auto element_s = [&](const std::function<void()>& pass) {
    return slowest_s(board, calls, context, pass) / static_cast<double>(elements);
  };
  for (const std::int64_t chunk : {kPassChunk, kShortChunk}) {
    passes.select_all(chunk);
    note(samples, samples::swept(chunk), element_s([&] { passes.sweep(chunk); }));
    passes.fill(chunk);
    note(samples, samples::filled(chunk), element_s([&] { passes.fill(chunk); }));
  }
}

}  // namespace scalecom
