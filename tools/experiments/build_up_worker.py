"""A rank of tools/experiments/build_up: bytes that ranks send for one reduction, counted."""

import json
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import rivals  # noqa: E402
import scalecom.torch as hvd  # noqa: E402

WARM_UP = 2
STEPS = 8  # At least, and as many as there are ranks: every rank leads equally often.


def methods(rate):
    """What is measured, by the name in the table."""
    scalecom = {f"ScaleCom, {mode}, {values} values": rivals.Reduce(
        hvd.Compression.scalecom(rate=rate, mode=mode, values=values))
        for mode in ("cyclic", "sharded") for values in ("float32", "float16")}
    return {"dense float32": rivals.Reduce(hvd.Compression.none),
            "dense float16": rivals.Reduce(hvd.Compression.fp16),
            "top-k, all-gather": rivals.TopK(rate), "random-k": rivals.RandomK(rate), **scalecom}


def bytes_of_a_step(method, name, count, steps):
    """Bytes that this rank sends for one reduction of `count` elements, the mean of `steps`."""
    generator = torch.Generator().manual_seed(7 + hvd.rank())
    gradient = torch.randn(count, generator=generator)
    for _ in range(WARM_UP):
        method(gradient.clone(), name)
    before = hvd.stats()["data_bytes_sent"]
    for _ in range(steps):
        method(gradient.clone(), name)
    return (hvd.stats()["data_bytes_sent"] - before) / steps


def main():
    path, count, rate = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    hvd.init()
    rows = {}
    for name, method in methods(rate).items():
        steps = max(STEPS, hvd.size())
        mine = bytes_of_a_step(method, name, count, steps)
        everyone = hvd.allgather_object(mine)
        rows[name] = {"mean": sum(everyone) / len(everyone), "max": max(everyone)}
    if hvd.rank() == 0:
        path.write_text(json.dumps(rows))
    hvd.shutdown()


if __name__ == "__main__":
    main()
