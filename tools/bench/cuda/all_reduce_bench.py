"""All-reduces of torch tensors through the runtime beside torch.distributed's own, on every rank of a
job. A module for tools/test-gpu, which starts the ranks."""

import statistics
import time

import torch
import torch.distributed

import coordinator_bench
import scalecom.torch as hvd
from scalecom.torch import gradient_optimizer

SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20]
COMPRESSED_BYTES_MIN = 1 << 20
BATCH = 100
PARAMETERS = 1000
HEALTH_STEPS = 100  # SCALECOM_HEALTH_STEPS, by default.


class _Clock:
    """Microseconds between two points of the current stream; of the host's clock on a CPU."""

    def __init__(self, device):
        self._events = None
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def time(self, work):
        if self._events is None:
            begin = time.perf_counter()
            work()
            return (time.perf_counter() - begin) * 1e6
        begin, end = self._events
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3


def _summary(values):
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 2), "low": round(low, 2), "high": round(high, 2)}


def _ways(tensor, name):
    ways = {"scalecom": lambda: hvd.allreduce_(tensor, name=name, op=hvd.Sum),
            "torch": lambda: torch.distributed.all_reduce(tensor)}
    if tensor.nbytes >= COMPRESSED_BYTES_MIN:
        compression = hvd.Compression.scalecom(rate=100)
        ways["compressed"] = lambda: hvd.allreduce_(tensor, name=f"{name}.compressed", op=hvd.Sum,
                                                    compression=compression)
    return ways


def _compare(size, device, rounds):
    """{way: microseconds}: the ways take turns, and each is first as often as the others."""
    tensor = torch.zeros(size // 4, device=device)
    ways = _ways(tensor, f"bench.{size}")
    clock, times = _Clock(device), {way: [] for way in ways}
    for turn in range(-3, rounds):
        order = list(ways)
        order = order[turn % len(order):] + order[:turn % len(order)]
        for way in order:
            hvd.barrier()
            taken = clock.time(ways[way])
            if turn >= 0:
                times[way].append(taken)
    return {way: _summary(values) for way, values in times.items()}


def _host_time(device, rounds):
    """Microseconds of the host for a batch while the device is busy with something else: until all is
    submitted, until all is enqueued, and what all threads of the process worked."""
    tensors = [torch.zeros(10_000, device=device) for _ in range(BATCH)]
    kinds = ("submit", "enqueue", "processor")
    times = {kind: [] for kind in kinds}
    for turn in range(-3, rounds):
        hvd.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda._sleep(20_000_000)
        worked, begin = time.process_time(), time.perf_counter()
        handles = [hvd.allreduce_async_(tensor, name=f"host.{place}", op=hvd.Sum)
                   for place, tensor in enumerate(tensors)]
        submitted = time.perf_counter()
        for handle in handles:
            hvd.synchronize(handle)
        taken = (submitted - begin, time.perf_counter() - begin, time.process_time() - worked)
        if turn >= 0:
            for kind, seconds in zip(kinds, taken):
                times[kind].append(seconds * 1e6)
    return {kind: _summary(values) for kind, values in times.items()}


def _health_cost(device):
    """Microseconds of a step of 100 compressed tensors of 1 MB: a usual one's median, and how much
    longer the sampled one and the two behind it take together, in which the host reads the sample; as
    a part of a period's steps too."""
    tensors = [torch.randn(250_000, device=device) for _ in range(BATCH)]
    compression = hvd.Compression.scalecom(rate=100)
    clock, times = _Clock(device), []
    for _ in range(2 * HEALTH_STEPS + 3):
        hvd.barrier()
        times.append(clock.time(lambda: hvd.grouped_allreduce_(
            tensors, name="health", op=hvd.Sum, compression=compression)))
    usual = statistics.median(times[HEALTH_STEPS // 2:HEALTH_STEPS - 1])
    last = 2 * HEALTH_STEPS - 1
    more = sum(times[last:last + 3]) - 3 * usual
    return {"step": round(usual, 1), "sampled": round(times[last], 1), "more": round(more, 1),
            "part": round(more / (HEALTH_STEPS * usual), 4)}


def _bursts(device, rounds):
    """{tensors in a burst: milliseconds of the host}: the backward pass of 1,000 parameters of 4 KB and
    synchronize(), as DistributedOptimizer submits their gradients and one by one, in turns."""
    parameters = [torch.nn.Parameter(torch.ones(1000, device=device)) for _ in range(PARAMETERS)]
    named = [(f"burst.{place}", parameter) for place, parameter in enumerate(parameters)]
    wrapped = hvd.DistributedOptimizer(torch.optim.SGD(parameters, lr=0.0), named_parameters=named)
    usual = gradient_optimizer._BURST_TENSORS
    times = {usual: [], 1: []}
    for turn in range(-2, min(rounds, 10)):
        for most in times:
            gradient_optimizer._BURST_TENSORS = most
            wrapped.zero_grad()
            loss = torch.cat(parameters).sum()
            if device.type == "cuda":
                torch.cuda.synchronize()
            hvd.barrier()
            begin = time.perf_counter()
            loss.backward()
            wrapped.synchronize()
            if turn >= 0:
                times[most].append((time.perf_counter() - begin) * 1e3)
            with wrapped.skip_synchronize():
                wrapped.step()
    gradient_optimizer._BURST_TENSORS = usual
    return {most: _summary(values) for most, values in times.items()}


def _graph_of_nccl(device, rounds, elements=1_000_000):
    """{way: {"host", "whole"}}, microseconds: NCCL's all-reduce of torch as a call and as a CUDA graph,
    on the host until it is enqueued, and on the stream. What a batch as a graph would gain."""
    tensor = torch.zeros(elements, device=device)
    torch.distributed.all_reduce(tensor)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="relaxed"):
        torch.distributed.all_reduce(tensor)
    ways = {"call": lambda: torch.distributed.all_reduce(tensor), "graph": graph.replay}
    clock, times = _Clock(device), {way: {"host": [], "whole": []} for way in ways}
    for turn in range(-3, rounds):
        for way, work in ways.items():
            hvd.barrier()

            def timed():
                begin = time.perf_counter()
                work()
                return (time.perf_counter() - begin) * 1e6

            host = []
            whole = clock.time(lambda: host.append(timed()))
            if turn >= 0:
                times[way]["host"].append(host[0])
                times[way]["whole"].append(whole)
    return {way: {kind: _summary(values) for kind, values in kinds.items()}
            for way, kinds in times.items()}


def measure(device, rounds, bytes_max):
    """{"all_reduce_us": {bytes: {way: summary}}, "host_us": of a batch of 100 tensors, "coordinator": as
    coordinator_bench has it, "health_us", "bursts_ms", on a CUDA device "graph_us"}."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    hvd.init()
    threads = coordinator_bench.session_threads()
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    result = {"ranks": hvd.size(), "session": hvd.info()["session"],
              "all_reduce_us": {size: _compare(size, device, rounds)
                                for size in SIZES if size <= bytes_max},
              "host_us": _host_time(device, rounds),
              "coordinator": coordinator_bench.measure(device, threads, rounds, BATCH),
              "health_us": _health_cost(device),
              "bursts_ms": _bursts(device, rounds)}
    if device.type == "cuda":
        result["graph_us"] = _graph_of_nccl(device, rounds)
    torch.distributed.destroy_process_group()
    hvd.shutdown()
    return result
