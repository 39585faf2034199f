"""A rank of tools/experiments/autotune: steps of many tensors, until rank 0 has tuned or as told."""

import json
import pathlib
import sys
import time

import torch

import scalecom.torch as hvd

# Elements: many small tensors, few large ones, as in a convolutional network.
TENSORS = [200] * 60 + [10_000] * 30 + [110_000] * 10
# Tensors come in groups, with computation between them.
GROUP = 10
CHUNK = 50


class Step:
    """One step: computes, submits and waits as a backward pass does."""

    def __init__(self):
        self.tensors = [torch.ones(elements) for elements in TENSORS]
        self.layer = torch.ones(160, 160)

    def run(self):
        """Seconds of this rank."""
        begin = time.perf_counter()
        handles = []
        for place, tensor in enumerate(self.tensors):
            if place % GROUP == 0:
                torch.mm(self.layer, self.layer)
            handles.append(hvd.allreduce_async_(tensor, name=f"t{place}"))
        for handle in handles:
            hvd.synchronize(handle)
        return time.perf_counter() - begin


def has_tuned(log):
    """Rank 0's log says so; all ranks hear it."""
    is_over = hvd.rank() == 0 and ",kept," in pathlib.Path(log).read_text()
    return hvd.broadcast_object(is_over, name="is over")


def main():
    options = json.loads(sys.argv[1])
    hvd.init()
    torch.set_num_threads(1)
    step = Step()
    if options["log"]:
        while True:
            for _ in range(CHUNK):
                step.run()
            if has_tuned(options["log"]):
                break
    for _ in range(options["warm_up"]):
        step.run()
    times = [step.run() for _ in range(options["steps"])]
    by_rank = hvd.allgather_object(times, name="times")
    if hvd.rank() == 0:
        # A step takes as long as on the rank that is last.
        slowest = [max(row) for row in zip(*by_rank)]
        pathlib.Path(options["report"]).write_text(json.dumps(slowest))
    hvd.barrier()
    hvd.shutdown()


if __name__ == "__main__":
    main()
