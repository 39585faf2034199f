"""A rank is killed at some point of some work without end; test_kills.py says what is wanted.

A work is a generator: each turn submits something and waits for it. Ranks do the same turns, in
the same order unless the work says otherwise.
"""

import itertools
import os
import random
import signal
import threading
import time

import torch

import scalecom.torch as hvd


def _reduce_all(names, tensor):
    for handle in [hvd.allreduce_async(tensor, name=name) for name in names]:
        hvd.synchronize(handle)


def _negotiate():
    """New names in each turn, in an order of each rank's own: every one is negotiated in full."""
    order = random.Random(hvd.rank())
    for turn in itertools.count():
        names = [f"new.{turn}.{number}" for number in range(20)]
        order.shuffle(names)
        yield _reduce_all(names, torch.ones(1))


def _repeat():
    """The same step again and again, which soon runs without negotiation."""
    names = [f"step.{number}" for number in range(8)]
    while True:
        yield _reduce_all(names, torch.ones(1000))


def _reduce(count):
    tensor = torch.ones(count)
    while True:
        yield hvd.allreduce_(tensor, name="reduced")


def _broadcast(count):
    tensor = torch.ones(count)
    for turn in itertools.count():
        root = turn % hvd.size()
        yield hvd.broadcast_(tensor, root_rank=root, name=f"broadcast.{root}")


def _compress():
    compression = hvd.Compression.scalecom(rate=100, warmup_steps=0)
    torch.manual_seed(hvd.rank())
    tensors = [torch.randn(300_000) for _ in range(4)]
    while True:
        handles = [hvd.allreduce_async(tensor, name=f"compressed.{number}", compression=compression)
                   for number, tensor in enumerate(tensors)]
        yield [hvd.synchronize(handle) for handle in handles]


def _process_group():
    torch.distributed.init_process_group("scalecom", init_method="scalecom://")
    tensor = torch.ones(16 << 10)
    while True:
        yield torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.AVG)


WORKS = {
    "negotiation": _negotiate,
    "steady state": _repeat,
    "all-reduce of 4 B": lambda: _reduce(1),
    "all-reduce of 64 KiB": lambda: _reduce(16 << 10),
    "all-reduce of 16 MiB": lambda: _reduce(4 << 20),
    "broadcast of 64 KiB": lambda: _broadcast(16 << 10),
    "broadcast of 16 MiB": lambda: _broadcast(4 << 20),
    "ScaleCom steps": _compress,
    "torch.distributed": _process_group,
}


def lose_a_rank_at_work(victim, work, turns, delay, device="cpu"):
    """Does `turns` turns on a device; `delay` seconds after them, while all go on, the victim is
    killed.

    Times are of the monotonic clock, which all processes of a host share.
    """
    hvd.init()
    torch.set_default_device(device)
    turn = WORKS[work]()
    for _ in range(turns):
        next(turn)
    hvd.barrier()
    killed_at = time.monotonic() + delay
    if hvd.rank() == victim:
        threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    message = None
    end = killed_at + 30.0
    while message is None and time.monotonic() < end:
        try:
            next(turn)
        except hvd.HorovodInternalError as error:
            message = str(error)
    failed_at = time.monotonic()
    hvd.shutdown()
    return {"message": message, "killed_at": killed_at, "failed_at": failed_at,
            "left_at": time.monotonic(), "job": int(os.environ.get("OMPI_MCA_ess_base_jobid", "0"))}
