"""How tools/bench/cuda counts CUDA's calls in a trace, without a GPU."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "bench" / "cuda"))

import coordinator_bench  # noqa: E402


def _span(begin):
    return {"name": coordinator_bench.SPAN, "cat": "user_annotation", "ts": begin, "dur": 10, "tid": 7}


def _call(name, at, thread, category="cuda_runtime"):
    return {"name": name, "cat": category, "ts": at, "dur": 1, "tid": thread}


def test_calls_are_counted_in_batches_only_and_by_thread():
    trace = {"traceEvents": [
        _span(100), _span(200), {**_span(100), "cat": "gpu_user_annotation", "dur": 1000},
        _call("cudaEventRecord", 101, 7), _call("cudaEventRecord", 202, 7),
        _call("cudaLaunchKernel", 103, 8), _call("cudaLaunchKernel", 104, 8),
        _call("cuLaunchKernelEx", 205, 9, "cuda_driver"),
        _call("cudaDeviceSynchronize", 150, 7), _call("cudaMalloc", 50, 8),
        _call("a kernel", 105, 0, "kernel"), {"ph": "M", "name": "process_name"}]}
    batches = coordinator_bench.calls_of_batches(trace)
    assert batches == [[(1, "application", "cudaEventRecord", 1), (3, "coordinator", "cudaLaunchKernel", 1),
                        (4, "coordinator", "cudaLaunchKernel", 1)],
                       [(2, "application", "cudaEventRecord", 1),
                        (5, "coordinator 1", "cuLaunchKernelEx", 1)]]
    calls = coordinator_bench.count_calls(batches)
    assert calls == {"application": {"cudaEventRecord": [1.0, 1.0]},
                     "coordinator": {"cudaLaunchKernel": [1.0, 1.0]},
                     "coordinator 1": {"cuLaunchKernelEx": [0.5, 0.5]}}
    assert coordinator_bench.waiting_calls(calls) == []


def test_calls_that_wait_are_found():
    trace = {"traceEvents": [_span(100), _call("cudaStreamSynchronize", 101, 8),
                             _call("cudaMalloc", 102, 7), _call("cudaMemcpyAsync", 103, 8)]}
    calls = coordinator_bench.count_calls(coordinator_bench.calls_of_batches(trace))
    assert coordinator_bench.waiting_calls(calls) == ["cudaMalloc", "cudaStreamSynchronize"]
