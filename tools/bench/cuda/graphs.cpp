#include "tools/bench/cuda/graphs.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda/error.hpp"
#include "device/cuda/stream.hpp"
#include "kernels/accelerator.hpp"
#include "scalecom/status.hpp"

namespace scalecom::bench {
namespace {

using device::cuda::check;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kTensors = 100;
constexpr std::int64_t kElements = 10'000;
constexpr std::int64_t kChunk = 100;
constexpr std::int64_t kChunks = kTensors * kElements / kChunk;
constexpr std::size_t kBytes = kTensors * kElements * sizeof(float);
// Copied before what is measured, so that all of it is enqueued before the device comes to it.
constexpr std::size_t kBallastBytes = 256 << 20;

/// A batch's memory, tables and streams, as the runtime has them.
class Batch {
 public:
  explicit Batch(Accelerator& accelerator)
      : accelerator_(accelerator),
        passes_(accelerator.make_stream()),
        wire_(accelerator.make_stream()),
        handed_over_(accelerator.make_event()),
        memory_(accelerator.allocate(5 * kBytes + kChunks * (2 + 4 + 4) + kTensors * (4 + 8))),
        pack_(accelerator.make_copy_table(kTensors, passes_.get())),
        unpack_(accelerator.make_copy_table(kTensors, passes_.get())),
        steps_(accelerator.make_step_table(kTensors, passes_.get())) {
    std::byte* place = memory_.get();
    const auto take = [&](std::size_t bytes) { return std::exchange(place, place + bytes); };
    gradients_ = take(kBytes);
    packed_ = take(kBytes);
    sent_ = take(kBytes);
    residuals_ = take(kBytes);
    results_ = take(kBytes);
    counts_ = reinterpret_cast<std::int64_t*>(take(kTensors * 8));
    values_ = reinterpret_cast<float*>(take(kChunks * 4));
    marks_ = reinterpret_cast<float*>(take(kTensors * 4));
    kept_ = reinterpret_cast<float*>(take(kChunks * 4));
    offsets_ = reinterpret_cast<std::uint16_t*>(take(kChunks * 2));
    accelerator.set_zero(memory_.get(), static_cast<std::size_t>(place - memory_.get()),
                         passes_.get());
    write_tables();
    synchronize();
  }

  StreamHandle stream() const { return passes_.get(); }
  void synchronize() const { check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize"); }

  void reduce_densely() const {
    pack_->scale_copy(passes_.get());
    accelerator_.record(handed_over_.get(), passes_.get());
    accelerator_.make_wait(wire_.get(), handed_over_.get());
    accelerator_.copy(sent_, packed_, kBytes, wire_.get());
    accelerator_.record(handed_over_.get(), wire_.get());
    accelerator_.make_wait(passes_.get(), handed_over_.get());
    unpack_->scale_copy(passes_.get());
  }
  void step() const {
    steps_->select_and_sweep(passes_.get());
    accelerator_.mark(reinterpret_cast<std::byte*>(marks_), DataType::float32, counts_, kTensors,
                      passes_.get());
    steps_->fill_selected(passes_.get());
  }

 private:
  void write_tables() {
    std::vector<CopyTensor> in;
    std::vector<CopyTensor> out;
    std::vector<StepTensor> steps;
    for (std::int64_t i = 0; i < kTensors; ++i) {
      const std::int64_t first = i * kElements * 4;
      const std::int64_t chunk = i * kElements / kChunk;
      in.push_back({packed_ + first, gradients_ + first, kElements, DataType::float32, {}});
      out.push_back({results_ + first, sent_ + first, kElements, DataType::float32, {1.0, 4.0}});
      StepTensor& step = steps.emplace_back();
      step.residual = reinterpret_cast<float*>(residuals_ + first);
      step.gradient = {gradients_ + first, DataType::float32, kElements, 1.0f};
      step.chunk = kChunk;
      step.offsets = offsets_ + chunk;
      step.selected.values = reinterpret_cast<std::byte*>(values_ + chunk);
      step.selected.kept = kept_ + chunk;
      step.nonfinite = counts_ + i;
      step.result = results_ + first;
      step.reduced = values_ + chunk;
      step.mark = marks_ + i;
    }
    pack_->assign(in, passes_.get());
    unpack_->assign(out, passes_.get());
    steps_->assign(steps, passes_.get());
  }

  Accelerator& accelerator_;
  StreamOwner passes_;
  StreamOwner wire_;
  EventOwner handed_over_;
  AcceleratorMemory memory_;
  std::unique_ptr<CopyTable> pack_;
  std::unique_ptr<CopyTable> unpack_;
  std::unique_ptr<StepTable> steps_;
  std::byte* gradients_ = nullptr;
  std::byte* packed_ = nullptr;
  std::byte* sent_ = nullptr;
  std::byte* residuals_ = nullptr;
  std::byte* results_ = nullptr;
  std::int64_t* counts_ = nullptr;
  float* values_ = nullptr;
  float* marks_ = nullptr;
  float* kept_ = nullptr;
  std::uint16_t* offsets_ = nullptr;
};

/// What `work` enqueues on `stream`, and from there on others, as a graph.
class Graph {
 public:
  Graph(StreamHandle stream, const std::function<void()>& work) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    work();
    check(cudaStreamEndCapture(stream, &graph_), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&instance_, graph_, 0), "cudaGraphInstantiate");
    check(cudaGraphUpload(instance_, stream), "cudaGraphUpload");
    find_nodes();
  }
  ~Graph() {
    if (instance_ != nullptr) cudaGraphExecDestroy(instance_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() const { check(cudaGraphLaunch(instance_, stream_), "cudaGraphLaunch"); }
  /// Before set_arguments().
  void read_arguments() {
    for (cudaGraphNode_t node : kernels_) {
      check(cudaGraphKernelNodeGetParams(node, &arguments_.emplace_back()),
            "cudaGraphKernelNodeGetParams");
    }
  }
  /// Gives every kernel its arguments anew, as another batch of the same launches would.
  void set_arguments() const {
    for (std::size_t i = 0; i < arguments_.size(); ++i) {
      check(cudaGraphExecKernelNodeSetParams(instance_, kernels_[i], &arguments_[i]),
            "cudaGraphExecKernelNodeSetParams");
    }
  }
  std::size_t nodes() const { return nodes_.size(); }

 private:
  void find_nodes() {
    std::size_t count = 0;
    check(cudaGraphGetNodes(graph_, nullptr, &count), "cudaGraphGetNodes");
    nodes_.resize(count);
    check(cudaGraphGetNodes(graph_, nodes_.data(), &count), "cudaGraphGetNodes");
    for (cudaGraphNode_t node : nodes_) {
      cudaGraphNodeType type{};
      check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      if (type == cudaGraphNodeTypeKernel) kernels_.push_back(node);
    }
  }

  const StreamHandle stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t instance_ = nullptr;
  std::vector<cudaGraphNode_t> nodes_;
  std::vector<cudaGraphNode_t> kernels_;
  std::vector<cudaKernelNodeParams> arguments_;
};

struct Way {
  const char* name;
  std::function<void()> run;
};

/// Microseconds of each round.
struct Times {
  std::vector<double> host;
  std::vector<double> device;
  std::vector<double> both;
};

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

class Rounds {
 public:
  Rounds(Accelerator& accelerator, const Batch& batch)
      : accelerator_(accelerator),
        batch_(batch),
        ballast_(accelerator.allocate(2 * kBallastBytes)) {}

  void take(const Way& way, Times& times) {
    accelerator_.copy(ballast_.get(), ballast_.get() + kBallastBytes, kBallastBytes,
                      batch_.stream());
    device::cuda::record(begin_.handle(), batch_.stream());
    Clock::time_point begin = Clock::now();
    way.run();
    times.host.push_back(us_since(begin));
    device::cuda::record(end_.handle(), batch_.stream());
    batch_.synchronize();
    times.device.push_back(1e3 * end_.milliseconds_since(begin_));
    begin = Clock::now();
    way.run();
    batch_.synchronize();
    times.both.push_back(us_since(begin));
  }

 private:
  Accelerator& accelerator_;
  const Batch& batch_;
  AcceleratorMemory ballast_;
  device::cuda::Event begin_{device::cuda::Event::Kind::timed};
  device::cuda::Event end_{device::cuda::Event::Kind::timed};
};

nlohmann::json summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](std::size_t quarter) { return values[values.size() * quarter / 4]; };
  return {{"median", at(2)}, {"low", at(1)}, {"high", at(3)}};
}

std::string text_of(const nlohmann::json& figures) {
  return fmt::format("{:.1f} ({:.1f} to {:.1f})", figures["median"].get<double>(),
                     figures["low"].get<double>(), figures["high"].get<double>());
}

nlohmann::json compare(Accelerator& accelerator, const Batch& batch, int rounds,
                       const std::function<void()>& work) {
  Graph graph(batch.stream(), work);
  std::vector<Way> ways{{"calls", work}, {"graph", [&] { graph.launch(); }}};
  std::string problem;
  try {
    graph.read_arguments();
    graph.set_arguments();
    ways.push_back({"graph, arguments anew", [&] {
                      graph.set_arguments();
                      graph.launch();
                    }});
  } catch (const Error& error) {  // The other ways go without it.
    problem = error.what();
    fmt::print("  {}\n", problem);
  }
  std::vector<Times> times(ways.size());
  Rounds turns(accelerator, batch);
  constexpr int kWarmUps = 5;
  for (int round = -kWarmUps; round < rounds; ++round) {
    if (round == 0) times.assign(ways.size(), {});
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const std::size_t way = (i + static_cast<std::size_t>(round + kWarmUps)) % ways.size();
      turns.take(ways[way], times[way]);
    }
  }
  nlohmann::json result{{"nodes", graph.nodes()}, {"problem", problem}};
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const nlohmann::json row{{"host", summary(times[i].host)},
                             {"device", summary(times[i].device)},
                             {"both", summary(times[i].both)}};
    fmt::print("  {:24} {:>24} {:>24} {:>24}\n", ways[i].name, text_of(row["host"]),
               text_of(row["device"]), text_of(row["both"]));
    result[ways[i].name] = row;
  }
  return result;
}

}  // namespace

nlohmann::json measure_graphs(int rounds) {
  const std::unique_ptr<Accelerator> accelerator = make_cuda_accelerator(0);
  const auto entered = accelerator->enter();
  const Batch batch(*accelerator);
  fmt::print("\nA batch of {} tensors of {} elements, us: median (quartiles)\n", kTensors,
             kElements);
  fmt::print("  {:24} {:>24} {:>24} {:>24}\n", "", "host", "device", "both, idle before");
  nlohmann::json result;
  fmt::print("dense, two streams\n");
  result["dense"] = compare(*accelerator, batch, rounds, [&] { batch.reduce_densely(); });
  fmt::print("compressed, one rank\n");
  result["compressed"] = compare(*accelerator, batch, rounds, [&] { batch.step(); });
  return result;
}

}  // namespace scalecom::bench
