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


def mesh_of(*sizes, **named):
    """Of the default device's type."""
    return dist.device_mesh.init_device_mesh(torch.get_default_device().type, sizes, **named)


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


def mesh_of_two_dimensions_shards_and_replicates():
    """On 4 ranks: fully_shard on 2 x 2, which averages over both dimensions."""
    from torch.distributed.fsdp import fully_shard
    with over("scalecom"):
        mesh = mesh_of(2, 2, mesh_dim_names=("replicate", "shard"))
        torch.manual_seed(3)
        net = torch.nn.Linear(8, 6)
        wanted = net.weight.detach() - 0.1 * 2.5
        fully_shard(net, mesh=mesh)
        net(torch.full((1, 8), hvd.rank() + 1.0)).sum().backward()
        torch.optim.SGD(net.parameters(), lr=0.1).step()
        return torch.allclose(net.weight.full_tensor(), wanted)
