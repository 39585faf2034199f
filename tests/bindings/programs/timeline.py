"""Programs with a timeline; test_timeline.py says what is wanted of its files."""

import os
import signal

import pytest
import torch

import scalecom.torch as hvd


def _reduce(name, **options):
    hvd.allreduce(torch.ones(1000), name=name, **options)


def train(steps=3):
    """With the timeline that the environment says."""
    hvd.init()
    for _ in range(steps):
        _reduce("dense")
        _reduce("compressed", compression=hvd.Compression.scalecom(rate=10, mode="cyclic"))
    hvd.join()
    hvd.shutdown()


def start_and_stop(folder):
    """Two timelines, one after the other, and what is refused."""
    hvd.stop_timeline()
    with pytest.raises(ValueError, match="has not been initialized"):
        hvd.start_timeline(f"{folder}/early.json")
    hvd.init()
    hvd.stop_timeline()
    hvd.start_timeline(f"{folder}/first.json", mark_cycles=True)
    with pytest.raises(ValueError, match="first.json already; call stop_timeline"):
        hvd.start_timeline(f"{folder}/second.json")
    _reduce("one")
    hvd.stop_timeline()
    hvd.stop_timeline()
    with pytest.raises(ValueError, match="zero byte"):
        hvd.start_timeline(f"{folder}/early.json\0.gz")
    _reduce("two")
    hvd.start_timeline(f"{folder}/second.json")
    _reduce("three")
    hvd.barrier()
    hvd.stop_timeline()
    if hvd.rank() == 0:
        with pytest.raises(ValueError, match="/nowhere/t.json.*rank 0: No such file.*name a file"):
            hvd.start_timeline("/nowhere/t.json")
    hvd.barrier()
    hvd.shutdown()


def die_while_it_is_written(turns):
    """Rank 0 is killed in the midst of its work, and of the writes."""
    hvd.init()
    tensors = [torch.ones(10) for _ in range(200)]
    for turn in range(1_000_000):
        for handle in [hvd.allreduce_async_(tensor, name=f"tensor.{number}")
                       for number, tensor in enumerate(tensors)]:
            hvd.synchronize(handle)
        if turn == turns:
            os.kill(os.getpid(), signal.SIGKILL)
