"""A rank of tools/experiments/build_up_time: whole reductions and their exchanges, in turn."""

import gc
import json
import pathlib
import random
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import rivals  # noqa: E402
import scalecom.torch as hvd  # noqa: E402


class TopKExchange:
    """What top-k of each rank sends, without its selection: k 32-bit indices and k values."""

    def __init__(self, selected):
        self.indices = torch.zeros(selected, dtype=torch.int32)
        self.values = torch.zeros(selected)

    def __call__(self, _, name):
        for handle in [hvd.allgather_async(self.indices, name=f"{name}.indices"),
                       hvd.allgather_async(self.values, name=f"{name}.values")]:
            hvd.synchronize(handle)


class ScaleComExchange:
    """What sharded ScaleCom sends, without its passes over memory: each rank's share of k one-byte
    offsets, then k values and a flag, which are added up."""

    def __init__(self, selected):
        self.offsets = torch.zeros(-(-selected // hvd.size()), dtype=torch.uint8)
        self.values = torch.zeros(selected + 1)

    def __call__(self, _, name):
        hvd.allgather(self.offsets, name=f"{name}.offsets")
        hvd.allreduce_(self.values, name=f"{name}.values", op=hvd.Sum)


class ReduceInPlace:
    """As DistributedOptimizer reduces a gradient."""

    def __init__(self, compression):
        self.compression = compression

    def __call__(self, gradient, name):
        hvd.allreduce_(gradient, name=name, compression=self.compression)


def methods(count, rate):
    """What is measured, by the name in the table."""
    selected = -(-count // rate)
    return {"dense": ReduceInPlace(hvd.Compression.none),
            "ScaleCom": ReduceInPlace(hvd.Compression.scalecom(rate=rate, mode="sharded")),
            "ScaleCom, exchange alone": ScaleComExchange(selected),
            "top-k": rivals.TopK(rate),
            "top-k, exchange alone": TopKExchange(selected)}


def main():
    options = json.loads(sys.argv[1])
    hvd.init()
    torch.set_num_threads(1)
    gc.disable()  # As timeit does.
    gradient = torch.randn(options["count"], generator=torch.Generator().manual_seed(hvd.rank()))
    measured = methods(options["count"], options["rate"])
    times, sent = ({name: [] for name in measured} for _ in range(2))
    order = random.Random(1)  # The same on every rank.
    for turn in range(-1, options["turns"]):
        for name in order.sample(list(measured), len(measured)):
            own = gradient.clone()  # In place, it is written.
            hvd.barrier()
            before, begin = hvd.stats()["data_bytes_sent"], time.perf_counter()
            measured[name](own, name)
            seconds = time.perf_counter() - begin
            if turn >= 0:
                times[name].append(seconds)
                sent[name].append(hvd.stats()["data_bytes_sent"] - before)
    everyone = hvd.allgather_object((times, sent))
    if hvd.rank() == 0:
        # A reduction takes as long as on the rank that is last.
        pathlib.Path(options["report"]).write_text(json.dumps({name: {
            "times": [max(turn) for turn in zip(*(part[0][name] for part in everyone))],
            "bytes": sum(sum(part[1][name]) for part in everyone) / len(everyone) / options["turns"]}
            for name in measured}))
    hvd.barrier()
    hvd.shutdown()


if __name__ == "__main__":
    main()
