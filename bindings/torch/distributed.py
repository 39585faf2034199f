"""torch.distributed over scalecom: its backend "scalecom", which ``import scalecom.torch`` registers.

    torch.distributed.init_process_group("scalecom")

Under torchrun, and wherever RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, that is all. Under
mpirun without them, ``init_process_group("scalecom", init_method="scalecom://")`` takes the ranks from
the job. The group and ``import scalecom.torch as hvd`` share one session: a group joins the job if
hvd.init() has not, and the last group to be destroyed then leaves it. A group of fewer ranks, or of
another order, is a process set, which its ranks connect by torch's store.
"""

import contextlib
import datetime
import socket
import threading
import time

import torch
import torch.distributed as dist

from scalecom import _library, basics, process_sets
from scalecom.torch import functions, mpi_ops
from scalecom.torch.point_to_point import PointToPoint
from scalecom.torch.process_group import ScaleComProcessGroup

_TIMEOUT = datetime.timedelta(minutes=5)
_LOOK_S = 0.05  # The longest time from a look at a store for a rank to the next.


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


_HERE, _LEFT = b"+", b"-"  # Before what a rank says in a round.


def _own_store(options):
    """The group's store, without what a destroyed group of its name has left there. Each rank counts the
    groups that it makes, also those that fail: one that missed an attempt hears at its next one that the
    others have left, and counts like them from then on."""
    number = options.store.add(f"scalecom/made/{options.group_rank}", 1)
    return dist.PrefixStore(f"scalecom/{number}", options.store)


class _StoreExchange:
    """Lets the ranks of a group meet by its store. One that gives up says so in the next round, which
    one that only comes then would else wait in for nothing."""

    def __init__(self, store, place, size):
        self._store, self._place, self._size = store, place, size
        self._round = 0

    def __call__(self, mine, limit_s):
        keys = self._next_round()
        self._store.set(keys[self._place], _HERE + mine)
        try:
            self._wait(keys, limit_s)
        except Exception:
            with contextlib.suppress(Exception):  # The store may be gone.
                self._store.set(self._next_round()[self._place], _LEFT)
            raise
        texts = [self._store.get(key) for key in keys]
        left = [place for place, text in enumerate(texts) if text.startswith(_LEFT)]
        if left:
            raise dist.DistStoreError(f"of the {self._size} ranks that meet those at the places {left} have "
                                      "left, since not all came within their time limit: call this at about the "
                                      "same time on all of them, or raise SCALECOM_CONNECT_TIMEOUT")
        return [text[len(_HERE):] for text in texts]

    def _next_round(self):
        self._round += 1
        return [f"scalecom/{self._round}/{place}" for place in range(self._size)]

    def _wait(self, keys, limit_s):
        self._store.wait(keys, datetime.timedelta(seconds=limit_s))


class _PatientExchange(_StoreExchange):
    """Of ranks that need not come soon: it ends when `closing`, a threading.Event, is set, or the job
    fails. It looks again and again: a wait at a TCPStore that takes too long writes to the log."""

    def __init__(self, store, place, size, closing):
        super().__init__(store, place, size)
        self._closing = closing

    def _wait(self, keys, limit_s):
        end, look_s = time.monotonic() + limit_s, 0.001
        while not self._store.check(keys):
            if self._closing.wait(look_s):
                raise RuntimeError("the group was destroyed before the two ranks had met")
            if _library.lib.scalecom_session_status() != _library.OK:
                raise RuntimeError(_library.last_error())
            if time.monotonic() >= end:
                raise dist.DistStoreError(f"the two ranks did not meet within {limit_s:g} s: the other "
                                          "one has called neither send() nor recv() with this one")
            look_s = min(2 * look_s, _LOOK_S)


def _connector(ranks, options):
    """What makes the process set of two ranks of a group, which the others know nothing of."""
    def connect(places, closing):
        if not hasattr(options.store, "clone"):
            raise NotImplementedError("send() and recv() need torch 2.8 or later; update it, or make a group "
                                      "for them with torch.distributed.new_group(backend=\"gloo\")")
        # Who uses a store keeps its other users out.
        store = dist.PrefixStore(f"pair/{places[0]}/{places[1]}", options.store.clone())
        exchange = _PatientExchange(store, places.index(options.group_rank), 2, closing)
        exchange(b"", options.timeout.total_seconds())
        return process_sets.connect_process_set([ranks[place] for place in places], exchange)

    return connect


def _process_set_of(ranks, options):
    if not ranks or ranks == list(range(basics.size())):
        return process_sets.global_process_set
    return process_sets.connect_process_set(
        ranks, _StoreExchange(options.store, options.group_rank, options.group_size))


def _create(options, _):
    if torch.__version__ < "2.7.dev0":  # Its DDP waits for ever for what a group in Python returns.
        raise NotImplementedError(f"torch {torch.__version__} is here; torch.distributed's backend \"scalecom\" needs "
                                  "2.7 or later: update torch, or train with hvd.DistributedOptimizer, or with "
                                  "hvd.ddp_hook over another backend")
    options.store = _own_store(options)  # Before what may fail on this rank alone.
    _membership.enter()
    ranks = list(options.global_ranks_in_group)
    if not ranks and (options.group_rank, options.group_size) != (basics.rank(), basics.size()):
        _membership.leave()
        raise ValueError(f"init_process_group says rank {options.group_rank} of "
                         f"{options.group_size}; the job that was launched has this process as rank "
                         f"{basics.rank()} of {basics.size()}: leave rank and world_size out, with "
                         "init_method=\"scalecom://\"")
    try:
        process_set = _process_set_of(ranks, options)
    except BaseException:
        _membership.leave()
        raise

    def end():
        process_sets.leave_process_set(process_set)
        _membership.leave()

    everyone = ranks or list(range(basics.size()))
    messages = PointToPoint(everyone, options.group_rank, _connector(everyone, options),
                            options.timeout)
    return ScaleComProcessGroup(options.group_id, options.group_rank, options.group_size,
                                process_set, messages, end)


def _rendezvous(url, timeout=_TIMEOUT, **_):
    """(store, rank, world size) of the job that this process was launched in, once."""
    _membership.join()
    is_first = basics.rank() == 0
    host = "127.0.0.1" if basics.local_size() == basics.size() else socket.getfqdn()
    store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False,
                          timeout=timeout) if is_first else None
    place = (host, store.port) if is_first else None
    host, port = functions.broadcast_object(place, name=_library.own_name("rendezvous of torch.distributed"))
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
