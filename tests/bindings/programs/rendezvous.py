"""Ranks of a job without MPI; test_rendezvous.py says what is wanted."""

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


def fail_to_connect():
    try:
        hvd.init()
    except ValueError as error:
        return str(error)
    return None
