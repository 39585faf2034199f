"""Ranks of a job without MPI; test_rendezvous.py says what is wanted."""

import os
import resource
import signal
import time

import torch
from programs.hosts import results_are_right

import scalecom.torch as hvd


def work():
    hvd.init()
    is_right = results_are_right()
    with open("/proc/self/maps") as maps:
        has_mpi = "libmpi" in maps.read()
    return {**hvd.info()["session"], "is_right": is_right, "has_mpi": has_mpi}


def sum_of(value):
    hvd.init()
    return hvd.allreduce(torch.tensor([value]), name="sum", op=hvd.Sum).item()


def connect_again(times):
    sums = []
    for _ in range(times):
        sums.append(sum_of(1.0))
        hvd.shutdown()
    return sums


def lack_files(victim):
    """The victim may open hardly more than it has open."""
    if os.environ["RANK"] == str(victim):
        number = len(os.listdir("/proc/self/fd")) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
    return fail_to_connect()


def interrupt_and_connect_again(pipe, first):
    """Ctrl-C while the first rank waits in init() for the other, which comes only when that is answered."""
    seconds = None
    if os.environ["RANK"] == str(first):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        begin = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            hvd.init()
        except KeyboardInterrupt:
            seconds = time.monotonic() - begin
        assert not hvd.is_initialized()
    open(pipe, "wb" if seconds is not None else "rb").close()  # Waits for the other end.
    return seconds, sum_of(1.0)


def fail_to_connect():
    try:
        hvd.init()
    except ValueError as error:
        return str(error)
    return None
