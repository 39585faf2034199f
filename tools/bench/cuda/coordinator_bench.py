"""What a batch of CUDA tensors takes of the coordinator: of its thread, from the batch's start until
all is enqueued, and of CUDA's interface. On a CPU only the first is there."""

import collections
import itertools
import json
import pathlib
import tempfile
import time

import torch
import torch.profiler

import scalecom.torch as hvd

ELEMENTS = 10_000
BATCHES = {"dense": None, "compressed": hvd.Compression.scalecom(rate=100)}
# As the session names its thread.
THREAD_NAME = "scalecom"
TRACED_BATCHES = 5
ROW = 6  # Fewer than the session lets be ahead of the device.
SPAN = "a batch of scalecom"
# They wait for the device, or may; so does what is called ...Synchronize.
WAITING = {"cudaMemcpy", "cudaMemcpy2D", "cudaMemset", "cudaMalloc", "cudaFree", "cudaMallocHost",
           "cudaHostAlloc", "cudaFreeHost", "cudaMallocManaged", "cudaDeviceReset",
           "cuMemAlloc_v2", "cuMemFree_v2"}


def session_threads():
    """The threads of sessions. Right after init(): others that they start inherit their name."""
    tasks = pathlib.Path("/proc/self/task").iterdir()
    found = [int(task.name) for task in tasks if (task / "comm").read_text().strip() == THREAD_NAME]
    if not found:
        raise RuntimeError(f"no thread is named {THREAD_NAME}: does this library name its sessions'?")
    return found


def _processor_us(threads):
    """Microseconds of processor that these threads of the process have had."""
    # Linux' number of another thread's clock: its complement, "per thread", "scheduled time".
    return sum(time.clock_gettime((~thread << 3) | 6) for thread in threads) * 1e6


def _finish_device(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start(tensors, kind, name):
    return hvd.grouped_allreduce_async_(tensors, name=name, op=hvd.Sum,
                                        compression=BATCHES[kind] or hvd.Compression.none)


def _finish(handle):
    """This thread only looks now and then, so that the session's own carries the batch on."""
    while not hvd.poll(handle):
        time.sleep(2e-4)
    return hvd.synchronize(handle)


def _run(tensors, kind, name):
    """One batch."""
    return _finish(_start(tensors, kind, name))


def _enqueued(before, after, rounds):
    """Of what stats() said before and after: batches of a round, and microseconds of each."""
    batches = after["device_batches"] - before["device_batches"]
    enqueued = after["device_enqueue_us"] - before["device_enqueue_us"]
    return {"device_batches": batches / rounds,
            "enqueue_us": round(enqueued / batches, 1) if batches else None}


def _time(device, threads, kind, count, rounds):
    """Means, in microseconds a batch. The thread's has up to 50 us in it, in which it looks whether
    more comes before it sleeps."""
    tensors = [torch.zeros(ELEMENTS, device=device) for _ in range(count)]
    name = f"coordinator.{kind}.{count}"
    for _ in range(3):
        _run(tensors, kind, name)
    _finish_device(device)
    time.sleep(2e-3)
    before, worked = hvd.stats(), _processor_us(threads)
    for _ in range(rounds):
        _run(tensors, kind, name)
        _finish_device(device)
        time.sleep(1e-3)
    worked, after = _processor_us(threads) - worked, hvd.stats()
    return {"thread_us": round(worked / rounds, 1), **_enqueued(before, after, rounds)}


def _time_in_a_row(device, kind, count, rounds):
    """Microseconds a batch of those that follow each other, as the last layers' in a backward pass do:
    the thread and what it needs are warm."""
    groups = [[torch.zeros(ELEMENTS, device=device) for _ in range(count)] for _ in range(ROW)]

    def run():
        handles = [_start(group, kind, f"row.{kind}.{count}.{place}") for place, group in enumerate(groups)]
        for handle in handles:
            _finish(handle)
        _finish_device(device)

    for _ in range(3):
        run()
    before = hvd.stats()
    for _ in range(rounds):
        run()
    return _enqueued(before, hvd.stats(), rounds)


def calls_of_batches(trace):
    """[[(us since the batch's begin, thread, call, us that it took)]] of CUDA's interface, for each batch
    of a Chrome trace; the thread that submits is "application", the others are "coordinator" and, if they
    are several (NCCL's post its calls), "coordinator 1" and so on."""
    spans = [event for event in trace["traceEvents"]
             if event.get("name") == SPAN and event.get("cat") == "user_annotation"]
    calls = [event for event in trace["traceEvents"]
             if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    threads = {span["tid"]: "application" for span in spans}
    batches = []
    for span in spans:
        inside = [call for call in calls if span["ts"] <= call["ts"] <= span["ts"] + span["dur"]]
        for call in inside:
            others = len(threads) - 1
            threads.setdefault(call["tid"], f"coordinator {others}" if others else "coordinator")
        batches.append(sorted((round(call["ts"] - span["ts"], 1), threads[call["tid"]], call["name"],
                               round(call["dur"], 1)) for call in inside))
    return batches


def count_calls(batches):
    """{thread: {call: [times a batch, us of all of them a batch]}} of calls_of_batches()."""
    counts = collections.defaultdict(lambda: collections.defaultdict(lambda: [0, 0]))
    for _, thread, name, taken in itertools.chain(*batches):
        counts[thread][name][0] += 1
        counts[thread][name][1] += taken
    return {thread: {name: [round(value / len(batches), 2) for value in values]
                     for name, values in sorted(names.items())} for thread, names in counts.items()}


def waiting_calls(calls):
    """Those of count_calls() that wait for the device."""
    return sorted({name for names in calls.values() for name in names
                   if "Synchronize" in name or name in WAITING})


def _trace(device, kind, count):
    tensors = [torch.zeros(ELEMENTS, device=device) for _ in range(count)]
    name = f"coordinator.traced.{kind}"
    for _ in range(3):
        _run(tensors, kind, name)
        _finish_device(device)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(TRACED_BATCHES):
            with torch.profiler.record_function(SPAN):
                _run(tensors, kind, name)
            _finish_device(device)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return calls_of_batches(json.loads(path.read_text()))


def measure(device, threads, rounds, count):
    """{kind: {"batches": {tensors: times}, "in_a_row": time, "calls": as count_calls() has them, "waiting",
    "last_batch"}}; all but the first for `count` tensors, the last three on a CUDA device only."""
    result = {}
    for kind in BATCHES:
        result[kind] = {"batches": {tensors: _time(device, threads, kind, tensors, rounds)
                                    for tensors in (1, count)},
                        "in_a_row": _time_in_a_row(device, kind, count, rounds)}
        if device.type == "cuda":
            batches = _trace(device, kind, count)
            calls = count_calls(batches)
            result[kind].update(calls=calls, waiting=waiting_calls(calls), last_batch=batches[-1])
    return result
