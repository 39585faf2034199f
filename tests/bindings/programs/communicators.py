"""A program that gives init() mpi4py's communicators."""

import os

import pytest
import torch
from mpi4py import MPI

import scalecom.torch as hvd


def init_by_communicators():
    world = MPI.COMM_WORLD
    alone = world.Split(world.rank, 0)
    turned = world.Split(0, -world.rank)
    for comm in (alone, turned, [world.rank], list(range(world.size))[::-1]):
        place, size = (comm.rank, comm.size) if hasattr(comm, "rank") else (
            comm.index(world.rank), len(comm))
        hvd.init(comm=comm)
        assert (hvd.rank(), hvd.size()) == (place, size)
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == size
        assert hvd.allgather_object(world.rank) == (
            [world.rank] if size == 1 else list(range(world.size))[::-1])
        hvd.init(comm=comm)
        with pytest.raises(ValueError, match="comm "):
            hvd.init(comm=alone if size > 1 else world)
        hvd.shutdown()
    assert "WORLD_SIZE" not in os.environ and "RANK" not in os.environ
    for comm, message in (([world.size], "those in comm call init"), ([0, 0], "each once"),
                          (MPI.COMM_NULL, "COMM_NULL"), ("x", "comm is str")):
        with pytest.raises(ValueError, match=message):
            hvd.init(comm=comm)
        assert not hvd.is_initialized()
    if world.rank == 0:
        hvd.init(comm=[0])
        assert (hvd.rank(), hvd.size()) == (0, 1)
        hvd.shutdown()
    else:
        with pytest.raises(ValueError, match="this is rank 1: those in comm"):
            hvd.init(comm=[0])
    hvd.init(comm=world)
    assert (hvd.rank(), hvd.size()) == (world.rank, world.size) and hvd.mpi_enabled()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == world.size
    hvd.shutdown()
