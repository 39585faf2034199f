"""Ranks of a job without MPI; test_rendezvous.py says what is wanted."""

import os
import resource

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


def fail_to_connect():
    try:
        hvd.init()
    except ValueError as error:
        return str(error)
    return None
