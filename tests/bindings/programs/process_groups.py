"""What the claims about process groups share."""

import contextlib
import os
import signal
import warnings

import torch
import torch.distributed as dist

import scalecom.torch as hvd

# Torch 2.14 warns of the names before.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@contextlib.contextmanager
def over(backend):
    """torch.distributed's default group is of this backend. What torch means to take away is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        dist.init_process_group(backend, init_method="scalecom://")
        try:
            yield
            hvd.barrier()
        finally:
            dist.destroy_process_group()


def mesh_of(*sizes, **named):
    """Of the default device's type."""
    return dist.device_mesh.init_device_mesh(torch.get_default_device().type, sizes, **named)


def exchange_with_all(group=None):
    """Three messages of each of two tags to every other rank and from it, at once, and in the opposite
    order of tags on the two sides."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    peers, works, came = [peer for peer in range(size) if peer != rank], [], []
    for peer in peers:
        for tag in (7, 0):
            for number in range(3):
                values = torch.arange(4.0) + 1000 * rank + 100 * tag + 10 * number
                works.append(dist.isend(values, group=group, group_dst=peer, tag=tag))
        for tag in (0, 7):
            for number in range(3):
                came.append((peer, tag, number, torch.zeros(4)))
                works.append(dist.irecv(came[-1][3], group=group, group_src=peer, tag=tag))
    for work in works:
        assert work.wait() and work.is_completed() and work.is_success()
    for peer, tag, number, tensor in came:
        begin = 1000 * peer + 100 * tag + 10 * number
        assert tensor.tolist() == [begin + place for place in range(4)], (peer, tag, number, tensor)


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


def meshes_and_messages_of_four_ranks_and_one_that_dies():
    """What the last rank's death, while the others receive from it, tells each of them."""
    assert mesh_of_two_dimensions_shards_and_replicates()
    dist.init_process_group("scalecom", init_method="scalecom://")
    exchange_with_all()
    hvd.barrier()
    if hvd.rank() == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.recv(torch.zeros(4), 3)
    except hvd.HorovodInternalError as error:
        return str(error)
