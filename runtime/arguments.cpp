#include "runtime/arguments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "compress/offset_codec.hpp"
#include "runtime/health_monitor.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kNameBytesMax = 4096;

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw Error(StatusCode::invalid_argument, fmt::format("tensor {}: {}", name, problem));
}

std::string to_string(const Shape& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

std::string to_string(const Device& device) {
  return device.kind == DeviceKind::host ? "the host" : fmt::format("cuda:{}", device.index);
}

void check_name(const std::string& name) {
  if (name.empty()) {
    throw Error(StatusCode::invalid_argument, "a tensor needs a name that is not empty");
  }
  if (name.size() > kNameBytesMax) {
    refuse(name.substr(0, 64) + "...", fmt::format("the name has {} bytes; at most {} are allowed",
                                                   name.size(), kNameBytesMax));
  }
}

void check_dtype(const std::string& name, DataType dtype) {
  if (size_of(dtype) > 0) return;
  refuse(name, fmt::format("dtype {} is not known; allowed are uint8, int8, int16, int32, int64, "
                           "float16, bfloat16, float32, float64 and bool",
                           static_cast<int>(dtype)));
}

void check_device_kind(const std::string& name, DeviceKind kind) {
  if (kind == DeviceKind::host || kind == DeviceKind::cuda) return;
  refuse(name, fmt::format("device kind {} is not known; allowed are host (0) and CUDA (1)",
                           static_cast<int>(kind)));
}

void check_view(const std::string& name, const TensorView& view) {
  check_name(name);
  check_dtype(name, view.dtype);
  check_shape(name, view.shape, view.dtype);
  if (view.data == nullptr && view.count() > 0) {
    refuse(name, fmt::format("no data for shape {}", to_string(view.shape)));
  }
  const Device& device = view.device;
  check_device_kind(name, device.kind);
  // A host reads elements from any place, a GPU does not.
  const auto address = reinterpret_cast<std::uintptr_t>(view.data);
  const auto bytes = static_cast<std::uintptr_t>(size_of(view.dtype));
  if (device.kind == DeviceKind::cuda && view.count() > 0 && address % bytes != 0) {
    refuse(name,
           fmt::format("its memory on {} begins at {:#x}, which is no multiple of the {} bytes of "
                       "a {}; copy it into memory that is",
                       to_string(device), address, bytes, scalecom::to_string(view.dtype)));
  }
}

bool is_floating(DataType dtype) {
  return dtype == DataType::float16 || dtype == DataType::bfloat16 || dtype == DataType::float32 ||
         dtype == DataType::float64;
}

void check_adasum(const std::string& name, const TensorView& input) {
  if (!is_floating(input.dtype)) {
    refuse(name, fmt::format("Adasum combines float16, bfloat16, float32 and float64, not {}; cast "
                             "the tensor or use another op",
                             scalecom::to_string(input.dtype)));
  }
  if (input.device.kind != DeviceKind::host) {
    refuse(name, fmt::format("Adasum combines tensors in the host's memory, and it is on {}; copy "
                             "it to the host",
                             to_string(input.device)));
  }
}

void check_op(const std::string& name, DataType dtype, const ReduceOptions& options) {
  switch (options.op) {
    case ReduceOp::average:
    case ReduceOp::sum:
    case ReduceOp::adasum:
    case ReduceOp::min:
    case ReduceOp::max:
    case ReduceOp::product: break;
    default:
      refuse(name, fmt::format("op {} is not supported; allowed are average (0), sum (1), adasum "
                               "(2), min (3), max (4) and product (5)",
                               static_cast<int>(options.op)));
  }
  const bool is_scaled = options.prescale != 1.0 || options.postscale != 1.0;
  if (dtype == DataType::boolean && (is_scaled || options.op == ReduceOp::average)) {
    refuse(name,
           "bool can be neither averaged nor scaled; use sum or max (or), min or product "
           "(and), or cast it");
  }
  if (!std::isfinite(options.prescale) || !std::isfinite(options.postscale)) {
    refuse(name, fmt::format("prescale is {} and postscale {}; both must be finite",
                             options.prescale, options.postscale));
  }
}

bool is_compressible(DataType dtype) {
  return dtype == DataType::float32 || dtype == DataType::float16 || dtype == DataType::bfloat16;
}

}  // namespace

void check_compression(const std::string& name, DataType dtype, const AllReduceOptions& options) {
  const Compression& compression = options.compression;
  switch (compression.mode) {
    case CompressionMode::none: return;
    case CompressionMode::cyclic:
    case CompressionMode::sharded:
    case CompressionMode::by_setting:
    case CompressionMode::hierarchical:
    case CompressionMode::automatic: break;
    default:
      refuse(name,
             fmt::format("compression mode {} is not known; allowed are none (0), cyclic (1), "
                         "sharded (2), the setting's (3), hierarchical (4) and auto (5)",
                         static_cast<int>(compression.mode)));
  }
  if (!is_compressible(compression.values)) {
    refuse(name, fmt::format("compression values are {} ({}); allowed are float16 (5), float32 (6) "
                             "and bfloat16 (9)",
                             static_cast<int>(compression.values),
                             scalecom::to_string(compression.values)));
  }
  if (compression.rate < 1 || compression.rate > kRateMax) {
    refuse(name,
           fmt::format("compression rate is {}; allowed are 1 to {}", compression.rate, kRateMax));
  }
  if (!(compression.beta > 0.0 && compression.beta <= 1.0)) {
    refuse(name, fmt::format("compression beta is {}; it must be above 0 and at most 1",
                             compression.beta));
  }
  if (compression.warmup_steps < 0) {
    refuse(name, fmt::format("compression warmup_steps is {}; it must be 0 or more",
                             compression.warmup_steps));
  }
  if (!(compression.guard >= 0.0 && compression.guard <= 1.0)) {
    refuse(name,
           fmt::format("compression guard is {}; it must be 0 (none) to 1", compression.guard));
  }
  if (compression.ramp_steps < 0) {
    refuse(name, fmt::format("compression ramp_steps is {}; it must be 0 or more",
                             compression.ramp_steps));
  }
  if (!is_compressible(dtype)) {
    refuse(name, fmt::format("ScaleCom compresses float32, float16 and bfloat16, not {}; cast the "
                             "tensor or send it without compression",
                             scalecom::to_string(dtype)));
  }
  if (options.op != ReduceOp::average && options.op != ReduceOp::sum) {
    refuse(name, fmt::format("ScaleCom compresses sum and average, not {}; send the tensor without "
                             "compression",
                             scalecom::to_string(options.op)));
  }
}

void check_all_reduce(const std::string& name, const TensorView& input, const TensorView& output,
                      const AllReduceOptions& options) {
  check_view(name, input);
  check_view(name, output);
  if (input.shape != output.shape || input.dtype != output.dtype) {
    refuse(name, fmt::format("input is {} {} and output {} {}; they must agree",
                             scalecom::to_string(input.dtype), to_string(input.shape),
                             scalecom::to_string(output.dtype), to_string(output.shape)));
  }
  if (input.device != output.device) {
    refuse(name, fmt::format("input is on {} and output on {}; they must be on one device",
                             to_string(input.device), to_string(output.device)));
  }
  if (input.stream != output.stream) {
    refuse(name, "input and output are on different streams; give both the same");
  }
  const auto in = reinterpret_cast<std::uintptr_t>(input.data);
  const auto out = reinterpret_cast<std::uintptr_t>(output.data);
  const auto bytes = static_cast<std::uintptr_t>(input.bytes());
  if (in != out && in < out + bytes && out < in + bytes) {
    refuse(name, "input and output overlap; they must be the same memory or apart");
  }
  check_op(name, input.dtype, options);
  if (options.op == ReduceOp::adasum) check_adasum(name, input);
  check_compression(name, input.dtype, options);
}

void check_member(const GroupMember& member, const GroupMember& first) {
  if (member.input.device == first.input.device) return;
  refuse(member.name,
         fmt::format("it is on {}, and {} of the same group on {}; the tensors of a "
                     "group must be on one device",
                     to_string(member.input.device), first.name, to_string(first.input.device)));
}

void check_not_negative(const char* what, std::int64_t value) {
  if (value >= 0) return;
  throw Error(StatusCode::invalid_argument,
              fmt::format("{} is {}; it must be 0 or more", what, value));
}

void check_explained(std::int64_t count, DataType dtype, const Compression& compression,
                     DeviceKind device) {
  const std::string name = "to be explained";
  check_not_negative("count", count);
  check_dtype(name, dtype);
  check_shape(name, {count}, dtype);
  check_device_kind(name, device);
  AllReduceOptions options;
  options.compression = compression;
  check_compression(name, dtype, options);
}

void check_guard(const std::string& name, const Compression& compression, const Config& config) {
  if (!HealthMonitor::is_guarded(compression)) return;
  const auto refuse_because = [&](const char* reason) {
    refuse(name, fmt::format("compression guard is {}, but {}; set one of them otherwise",
                             compression.guard, reason));
  };
  if (config.health_steps == 0) {
    refuse_because("SCALECOM_HEALTH_STEPS is 0, so nothing is measured that it could judge");
  }
  if (config.allreduce_algorithm == "mpi") {
    refuse_because(
        "SCALECOM_ALLREDUCE_ALGORITHM is mpi, whose sums may differ between ranks, and so may what "
        "a guard makes of them");
  }
}

void check_all_gather(const std::string& name, const TensorView& input) {
  check_view(name, input);
  if (input.shape.empty()) {
    refuse(name, "a scalar cannot be gathered; give it one dimension");
  }
}

void check_reduce_scatter(const std::string& name, const TensorView& input,
                          const ReduceOptions& options) {
  check_view(name, input);
  if (input.shape.empty()) {
    refuse(name, "a scalar cannot be scattered; give it one dimension");
  }
  if (options.op == ReduceOp::adasum) {
    refuse(name, "Adasum is for all-reduces only; scatter a sum or an average");
  }
  check_op(name, input.dtype, options);
}

void check_all_to_all(const std::string& name, const TensorView& input,
                      std::span<const std::int64_t> splits, int size) {
  check_view(name, input);
  if (input.shape.empty()) refuse(name, "a scalar cannot be split; give it one dimension");
  const std::int64_t rows = input.shape[0];
  if (splits.empty()) {
    if (rows % size == 0) return;
    refuse(name, fmt::format("the first dimension of shape {} cannot be split equally between {} "
                             "ranks; give splits",
                             to_string(input.shape), size));
  }
  if (static_cast<int>(splits.size()) != size) {
    refuse(name, fmt::format("{} splits are given; {} are needed, one for each rank", splits.size(),
                             size));
  }
  std::int64_t left = rows;
  for (std::size_t rank = 0; rank < splits.size(); ++rank) {
    if (splits[rank] < 0) {
      refuse(name,
             fmt::format("the split for rank {} is {}; it must be 0 or more", rank, splits[rank]));
    }
    if (splits[rank] > left) {
      refuse(name, fmt::format("the splits add up to more than the {} rows of shape {}", rows,
                               to_string(input.shape)));
    }
    left -= splits[rank];
  }
  if (left != 0) {
    refuse(name, fmt::format("the splits add up to {}, not to the {} rows of shape {}", rows - left,
                             rows, to_string(input.shape)));
  }
}

void check_broadcast(const std::string& name, const TensorView& tensor, int root, int size) {
  check_view(name, tensor);
  if (root < 0 || root >= size) {
    refuse(name, fmt::format("root is {}; allowed are the ranks 0 to {}", root, size - 1));
  }
}

void check_shape(const std::string& name, const Shape& shape, DataType dtype) {
  std::int64_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape) {
    if (extent < 0) refuse(name, "shape " + to_string(shape) + " has a negative extent");
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      refuse(name, fmt::format("shape {} has more bytes of {} than 63 bits count", to_string(shape),
                               scalecom::to_string(dtype)));
    }
  }
}

void check_residual(const Residual& residual) {
  check_name(residual.name);
  check_shape(residual.name, residual.shape, DataType::float32);
  const std::int64_t count = count_of(residual.shape);
  const auto size = static_cast<std::int64_t>(residual.values.size());
  if ((size != count && size != 0) || residual.step < 0) {
    refuse(
        residual.name,
        fmt::format("its residual has {} values for shape {} and step {}; {} values, or none for "
                    "zeros, and a step of 0 or more are needed",
                    size, to_string(residual.shape), residual.step, count));
  }
  if (const auto bad =
          std::ranges::count_if(residual.values, [](float value) { return !std::isfinite(value); });
      bad > 0) {
    refuse(residual.name,
           fmt::format("its residual has {} values of {} that are NaN or Inf, and would never be "
                       "delivered; restore finite ones, or zeros",
                       bad, size));
  }
  if (!(residual.beta >= 0.0 && residual.beta <= 1.0)) {
    refuse(residual.name,
           fmt::format("its residual has beta {}; allowed are numbers above 0 and at "
                       "most 1, and 0 where it is not known",
                       residual.beta));
  }
}

}  // namespace scalecom
