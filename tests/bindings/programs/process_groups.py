"""What the claims about process groups share."""

import contextlib
import os

import torch
import torch.distributed as dist

import scalecom.torch as hvd


@contextlib.contextmanager
def over(backend):
    """torch.distributed's default group is of this backend."""
    dist.init_process_group(backend, init_method="scalecom://")
    try:
        yield
        hvd.barrier()
    finally:
        dist.destroy_process_group()


def sum_of_ranks():
    """[it, whether the session outlives the group that joined the job]: as torchrun starts it."""
    dist.init_process_group("scalecom")
    tensor = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(tensor)
    dist.destroy_process_group()
    return [tensor.item(), hvd.is_initialized()]


def take_each_others_rank():
    hvd.init()
    folder = hvd.broadcast_object(os.path.abspath("rendezvous"))
    try:
        dist.init_process_group("scalecom", init_method=f"file://{folder}", world_size=2,
                                rank=1 - hvd.rank())
    except ValueError as error:
        return str(error)
    finally:
        hvd.shutdown()
