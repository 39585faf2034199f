"""torch.distributed over scalecom: its backend "scalecom", which ``import scalecom.torch`` registers.

    torch.distributed.init_process_group("scalecom")

Under torchrun, and wherever RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, that is all. Under
mpirun without them, ``init_process_group("scalecom", init_method="scalecom://")`` takes the ranks from
the job. The group and ``import scalecom.torch as hvd`` share one session: a group joins the job if
hvd.init() has not, and the last group to be destroyed then leaves it.
"""

import datetime
import socket
import threading

import torch.distributed as dist

from scalecom import basics
from scalecom.torch import functions, mpi_ops
from scalecom.torch.process_group import ScaleComProcessGroup

_TIMEOUT = datetime.timedelta(minutes=5)


class _Membership:
    """Of this process in the job, while groups are there."""

    def __init__(self):
        self._lock = threading.Lock()
        self._groups = 0
        self._is_ours = False

    def join(self):
        with self._lock:
            if not basics.is_initialized():
                basics.init()
                self._is_ours = True

    def enter(self):
        self.join()
        with self._lock:
            self._groups += 1

    def leave(self):
        with self._lock:
            self._groups -= 1
            if self._groups == 0 and self._is_ours:
                self._is_ours = False
                basics.shutdown()


_membership = _Membership()


def _refusal_of(ranks):
    if not ranks or list(ranks) == list(range(basics.size())):
        return None
    return (f"this group has the ranks {list(ranks)}; a group of the scalecom backend has all of the "
            f"job's in their order, 0 to {basics.size() - 1}: make this one with new_group(ranks, "
            "backend=\"gloo\")")


def _create(options, _):
    _membership.enter()
    ranks = list(options.global_ranks_in_group)
    if not ranks and (options.group_rank, options.group_size) != (basics.rank(), basics.size()):
        _membership.leave()
        raise ValueError(f"init_process_group says rank {options.group_rank} of "
                         f"{options.group_size}; the job that was launched has this process as rank "
                         f"{basics.rank()} of {basics.size()}: leave rank and world_size out, with "
                         "init_method=\"scalecom://\"")
    return ScaleComProcessGroup(options.group_id, options.group_rank, options.group_size,
                                _refusal_of(ranks), _membership.leave)


def _rendezvous(url, timeout=_TIMEOUT, **_):
    """(store, rank, world size) of the job that this process was launched in, once."""
    _membership.join()
    is_first = basics.rank() == 0
    host = "127.0.0.1" if basics.local_size() == basics.size() else socket.getfqdn()
    store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False,
                          timeout=timeout) if is_first else None
    place = (host, store.port) if is_first else None
    host, port = functions.broadcast_object(place, name="scalecom.rendezvous")
    if not is_first:
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    mpi_ops.barrier()  # Rank 0's store is there until all have come.
    yield store, basics.rank(), basics.size()
    raise RuntimeError("the ranks of a job of scalecom stay as they are; start another job")


def register():
    """Makes "scalecom" known to torch.distributed, once for each process."""
    dist.Backend.register_backend("scalecom", _create, extended_api=True, devices=["cpu", "cuda"])
    dist.register_rendezvous_handler("scalecom", _rendezvous)


register()
