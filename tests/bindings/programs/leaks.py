"""What thousands of training steps leave behind; test_leaks.py says how much is allowed."""

import gc
import os
import pathlib

import torch

import scalecom.torch as hvd


def _resident_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _count_objects():
    """Without a list of them: of some MB, its memory may stay with the process, at any time."""
    gc.freeze()
    count = gc.get_freeze_count()
    gc.unfreeze()
    return count


def _left():
    """Of this process: bytes in memory, open descriptors, threads, Python objects."""
    gc.collect()
    return {"bytes": _resident_bytes(), "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")), "objects": _count_objects()}


def train(steps, tensors, parts):
    """Steps of so many parameters, one half compressed and one as it is, with single, grouped and
    gathering calls beside them; what is left after each of `parts` equal parts of them."""
    torch.set_num_threads(1)
    hvd.init()
    weights = [torch.nn.Parameter(torch.randn(8, 32)) for _ in range(tensors)]
    names = [f"layer{place}.weight" for place in range(tensors)]
    compression = hvd.Compression.scalecom(rate=8, min_elements=1,
                                           rates={"*[02468].weight": None})
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(weights, lr=0.01), zip(names, weights),
                                         compression=compression)
    loose = [torch.ones(100) for _ in range(4)]
    left = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        sum(weight.square().sum() for weight in weights).backward()
        optimizer.step()
        if step % 10 == 0:
            hvd.allreduce(loose[0])
            hvd.grouped_allreduce(loose)
            hvd.allgather(loose[0][:1 + step // 10 % 3])
            hvd.broadcast_object({"step": step}, 0)
        if step % (steps // parts) == 0:
            left.append(_left())
    hvd.barrier()  # A rank that ends takes its connections from the others.
    return left
