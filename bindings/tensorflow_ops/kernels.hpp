#pragma once

#include "bindings/tensorflow_ops/call.hpp"

namespace scalecom::tensorflow {

// Each operation on tensors has the number of the call as its first input, then the tensors: -1 in
// a graph; eagerly that of a call without a name, or -2. Outputs are those of the tensors in their
// order.

extern const Work kAllReduce;
extern const Work kAllGather;
extern const Work kReduceScatter;
/// Not in place: the outputs are copies first.
extern const Work kBroadcast;
/// Inputs: number of the call, rows, splits (int64; none for equal parts). Outputs: rows, and how
/// many of them came from each rank (int64).
extern const Work kAllToAll;
extern const Work kBarrier;
/// Output: an int32 scalar. fact 0: rank, 1: size, 2: local rank, 3: local size; 4: whether this
/// rank is in the process set, 1 or 0.
extern const Work kFact;
/// One input of int32, an output that is as many times 2; from a thread of its own.
extern const Work kSelfTest;

}  // namespace scalecom::tensorflow
