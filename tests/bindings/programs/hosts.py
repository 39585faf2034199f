"""Ranks that cannot share memory, or that live in containers; test_hosts.py says what is wanted."""

import ctypes
import os
import resource
import time

import torch

import scalecom.torch as hvd

CLONE_NEWNET = 0x40000000
MPI_THREAD_MULTIPLE = 3


def results_are_right():
    """Dense, compressed and one-to-all, from one element to more than any slot holds."""
    ranks, rank = hvd.size(), hvd.rank()
    for count in (1, 16 << 10, 4 << 20):
        tensor = torch.arange(count, dtype=torch.float32).remainder_(1000.0)
        summed = hvd.allreduce(tensor + rank, name=f"sum.{count}", op=hvd.Sum)
        assert torch.equal(summed, ranks * tensor + ranks * (ranks - 1) // 2), count
        sent = hvd.broadcast(tensor + rank, root_rank=ranks - 1, name=f"sent.{count}")
        assert torch.equal(sent, tensor + ranks - 1), count
    compression = hvd.Compression.scalecom(rate=10, warmup_steps=0)
    gradient = torch.zeros(1000)
    gradient[::10] = 1.0 + rank
    reduced = hvd.allreduce(gradient, name="compressed", op=hvd.Sum, compression=compression)
    assert torch.equal(reduced[::10], torch.full((100,), ranks * (ranks + 1) / 2))
    return True


def _session():
    session = hvd.info()["session"]
    return {name: session[name] for name in ("shared_memory", "collectives", "local_size",
                                             "cross_size", "hosts")}


def work(file_bytes_max=None, limited_rank=None):
    """Connects and computes; one rank may be forbidden to make larger files than that."""
    if int(os.environ["OMPI_COMM_WORLD_RANK"]) == limited_rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    hvd.init()
    return {**_session(), "is_right": results_are_right(),
            "namespaces": {name: os.stat(f"/proc/self/ns/{name}").st_ino
                           for name in ("pid", "mnt", "ipc", "net")}}


def lose_the_network(stranger):
    """One rank moves into an empty network namespace after MPI has connected all.

    MPI goes on over its shared memory: only the control connections have no way to that rank.
    """
    mpi = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
    level = ctypes.c_int()
    assert mpi.MPI_Init_thread(None, None, MPI_THREAD_MULTIPLE, ctypes.byref(level)) == 0
    if int(os.environ["OMPI_COMM_WORLD_RANK"]) == stranger:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    begin = time.monotonic()
    try:
        hvd.init()
        message = None
    except (ValueError, hvd.HorovodInternalError) as error:
        message = str(error)
    seconds = time.monotonic() - begin
    mpi.MPI_Finalize()
    return {"message": message, "seconds": seconds}
