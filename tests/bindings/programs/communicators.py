"""A program that gives init() mpi4py's communicators."""

import os

import pytest
import torch
from mpi4py import MPI

import scalecom.torch as hvd
from scalecom.process_sets import ranks_by_number


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
    assert hvd.global_process_set.mpi_comm is world
    hvd.shutdown()


def init_by_parts_of_a_communicator():
    world = MPI.COMM_WORLD
    part = world.Split(world.rank % 2, world.rank)
    mine, first = hvd.ProcessSet(part), hvd.ProcessSet([0])
    with pytest.raises(ValueError, match="every rank gives as many"):
        hvd.init(process_sets=[mine, first][:1 + world.rank % 2])
    outside = world.rank == 0
    two = world.Split(MPI.UNDEFINED if outside else 0)
    with pytest.raises(ValueError, match=r"0 to 1 .*every rank gives as many"):
        hvd.init(process_sets=[] if outside else [hvd.ProcessSet(two)])
    without = hvd.ProcessSet([1, 2] if outside else two)
    hvd.init(process_sets=[without])
    assert without.process_set_id == 1 and without.included() is not outside
    hvd.shutdown()
    hvd.init(world, process_sets=[mine, first])
    place = world.rank % 2
    assert (mine.process_set_id, first.process_set_id) == (1 + place, 3)
    assert mine.mpi_comm is part and first.mpi_comm is None
    assert mine.ranks == list(range(place, world.size, 2))
    ranks = hvd.allgather(torch.tensor([world.rank]), process_set=mine)
    assert ranks.tolist() == mine.ranks
    assert ranks_by_number() == {0: list(range(world.size)), 1: [0, 2], 2: [1], 3: [0]}
    hvd.shutdown()
