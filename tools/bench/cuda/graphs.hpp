#pragma once

#include <nlohmann/json.hpp>

namespace scalecom::bench {

/// What a batch's work takes when it is enqueued call by call, and as one CUDA graph: microseconds,
/// by batch and way; prints them, too. A batch is 100 float32 tensors of 10,000 elements: dense on
/// two streams, where a copy stands for what travels, and compressed at one rank. The ways take
/// turns `rounds` times. Of each: how long the host is held up while the device is busy, how long
/// the device then takes, and how long both take together where it is idle. Throws Error.
nlohmann::json measure_graphs(int rounds);

}  // namespace scalecom::bench
