"""Processor time that ranks take; test_load.py says how much is allowed."""

import os
import resource
import time

import torch

import scalecom.torch as hvd



def _processor_s():
    """Of all threads of this process, in user and system mode."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _share_of_a_core(action):
    begin, used = time.monotonic(), _processor_s()
    action()
    return (_processor_s() - used) / (time.monotonic() - begin)


def _work(steps):
    for _ in range(steps):
        for handle in [hvd.allreduce_async(torch.ones(1000), name=f"step.{number}")
                       for number in range(4)]:
            hvd.synchronize(handle)


def wait(seconds, tries, steps):
    """The share of a core that a step takes whose rank 1 comes late, after some steps."""
    hvd.init()
    _work(steps)
    shares = []
    for _ in range(tries):
        if hvd.rank() == 1:
            time.sleep(seconds)  # The lateness of the rank that is waited for.
        shares.append(_share_of_a_core(lambda: _work(1)))
    return {"shares": shares, "steady_agreements": hvd.stats()["steady_agreements"]}


def idle(seconds, tries, steps):
    """The share of a core that a connected rank takes while nothing is to do, after some work."""
    hvd.init()
    _work(steps)
    shares = []
    for _ in range(tries):
        shares.append(_share_of_a_core(lambda: time.sleep(seconds)))
        _work(1)  # What the next try comes after.
    return {"shares": shares, "steady_agreements": hvd.stats()["steady_agreements"]}


def crowd(count, cores):
    """Seconds that so many small all-reduces take on so few cores, and whether all were right."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    hvd.init()
    hvd.barrier()
    begin = time.monotonic()
    is_right = all(hvd.allreduce(torch.ones(16), name=f"small.{number % 10}", op=hvd.Sum)[0].item()
                   == hvd.size() for number in range(count))
    return {"seconds": time.monotonic() - begin, "is_right": is_right}
