"""A program that gives init() mpi4py's communicators."""

import pytest
import torch
from mpi4py import MPI

import scalecom.torch as hvd


def init_by_communicators():
    world = MPI.COMM_WORLD
    alone = world.Split(world.rank, 0)
    turned = world.Split(0, -world.rank)
    for comm in (alone, turned):
        with pytest.raises(ValueError, match="which is rank"):
            hvd.init(comm=comm)
        assert hvd.is_initialized() is False
    hvd.init(comm=world)
    assert (hvd.rank(), hvd.size()) == (world.rank, world.size)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == world.size
    hvd.shutdown()
