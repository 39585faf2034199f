#pragma once

#include <functional>

#include "bindings/tensorflow_ops/api.hpp"

namespace scalecom::tensorflow {

/// What tells TensorFlow that an asynchronous kernel has ended.
using Done = std::function<void()>;

/// The function object behind `done`, to be called after the compute function has returned. The
/// address that TensorFlow gives is that of an argument, which is gone by then: it has to be copied
/// within the compute function. Nothing says what lies there; in all TensorFlows seen (2.21) it is
/// a std::function<void()> of libstdc++. Empty where it does not look like one; a kernel then has
/// to end at once, by TF_RunAsyncOpKernelDoneCallback.
Done copy_done(const TF_AsyncOpKernelDoneCallback* done);

}  // namespace scalecom::tensorflow
