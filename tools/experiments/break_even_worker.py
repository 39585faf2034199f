"""A rank of tools/experiments/break_even: all-reduces, dense, sharded and by auto, that take turns."""

import gc
import json
import pathlib
import random
import sys
import time

import torch

import scalecom.torch as hvd

WARM_UP = 2


def compression_of(method, rate):
    return hvd.Compression.none if method == "dense" else hvd.Compression.scalecom(rate, mode=method)


class Load:
    """`tensors` gradients of `elements`, reduced in place as one group."""

    def __init__(self, method, rate, elements, tensors):
        self.name = f"{method} {tensors} x {elements} / {rate}"
        self.compression = compression_of(method, rate)
        generator = torch.Generator().manual_seed(hvd.rank())
        self.tensors = [torch.randn(elements, generator=generator) for _ in range(tensors)]

    def reduce(self):
        """Seconds of this rank. The barrier before it keeps the ranks together."""
        hvd.barrier()
        begin = time.perf_counter()
        hvd.grouped_allreduce_(self.tensors, name=self.name, compression=self.compression)
        return time.perf_counter() - begin


def measure(options, rate, elements, tensors):
    """{method: seconds of each turn} on this rank, until the turns or the time are over."""
    loads = {method: Load(method, rate, elements, tensors) for method in options["methods"]}
    times = {method: [] for method in loads}
    order = random.Random(1)  # The same on every rank.
    for turn in range(-WARM_UP, options["turns"]):
        # What came before has left its memory in the caches.
        for method in order.sample(options["methods"], len(loads)):
            seconds = loads[method].reduce()
            if turn >= 0:
                times[method].append(seconds)
        if turn == -WARM_UP:
            limit = time.monotonic() + options["limit_s"]
        is_over = torch.tensor([float(time.monotonic() > limit)])
        if hvd.allreduce(is_over, name="is over", op=hvd.Max).item() and turn >= 2:
            break
    return times


def model_of(rate, elements):
    """({method: us a tensor by the model}, the mode that auto chooses)"""
    parameter = torch.empty(1, elements, device="meta")
    compression = hvd.Compression.scalecom(rate, mode="auto", min_elements=1)
    row, = hvd.compression_plan([("gradient", torch.nn.Parameter(parameter))], compression)
    return {"dense": row["dense_us"], "sharded": row["sparse_us"],
            "auto": min(row["dense_us"], row["sparse_us"])}, row["mode"]


def main():
    options = json.loads(sys.argv[1])
    hvd.init()
    torch.set_num_threads(1)
    gc.disable()  # As timeit does.
    measured = []
    for rate, elements, tensors in options["loads"]:
        times = measure(options, rate, elements, tensors)
        by_rank = hvd.allgather_object(times, name="times")
        model, mode = model_of(rate, elements)
        # An all-reduce takes as long as on the rank that is last.
        slowest = {method: [max(row) for row in zip(*(part[method] for part in by_rank))]
                   for method in options["methods"]}
        measured.append({"compression": rate, "elements": elements, "tensors": tensors,
                         "times": slowest, "model": model, "chosen": mode})
    if hvd.rank() == 0:
        pathlib.Path(options["report"]).write_text(json.dumps(measured))
    hvd.barrier()
    hvd.shutdown()


if __name__ == "__main__":
    main()
