"""Jobs of some of the ranks that MPI's launcher started, or of all in another order: init(comm=...).

They meet by themselves over TCP, as ranks without MPI do; mpi4py tells them where.
"""

import contextlib
import os
import secrets
import socket

from scalecom.launch import hosts

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")  # What MPI's launchers set.
_session = {"ranks": None}  # The list that it was made by.
_REMEDY = ("start the job by mpirun with mpi4py installed, or init() all ranks and give some of them a "
           "process set: hvd.add_process_set(ranks)")


def place_by(comm):
    """The variables by which this process finds the ranks of a communicator, or of a list of the job's
    ranks; None where that is the whole job. ValueError where this process is not among them."""
    _session["ranks"] = None
    if comm is None or not (is_list(comm) or hasattr(comm, "Compare")):
        return None
    if is_list(comm):
        _check_list(comm)
        if not comm or not is_under_mpi():
            return None
    try:
        from mpi4py import MPI
    except ImportError:
        if is_list(comm) and list(comm) != list(range(len(comm))):
            raise ValueError(f"comm is {list(comm)} and mpi4py is not installed; {_REMEDY}") from None
        return None
    if not is_list(comm):
        if comm == MPI.COMM_NULL:
            raise ValueError("comm is MPI.COMM_NULL: this process is in no communicator, and should not "
                             "call init()")
        same = (MPI.IDENT, MPI.CONGRUENT)
        return None if MPI.Comm.Compare(comm, MPI.COMM_WORLD) in same else _meet(comm)
    world = MPI.COMM_WORLD
    if list(comm) == list(range(world.size)):
        return None
    if max(comm) >= world.size or world.rank not in comm:
        raise ValueError(f"comm is {list(comm)}; the job's ranks are 0 to {world.size - 1}, and this is "
                         f"rank {world.rank}: those in comm call init(), and no others")
    group = world.Get_group().Incl(list(comm))
    part = world.Create_group(group)
    try:
        _session["ranks"] = list(comm)
        return _meet(part)
    finally:
        part.Free()
        group.Free()


def is_list(comm):
    return isinstance(comm, (list, tuple))


def check_session(comm, rank, size):
    """ValueError unless the session's rank and size are what comm asks for."""
    if comm is None or is_list(comm) and list(comm) in (
            [], _session["ranks"] or list(range(size))):
        return
    if is_list(comm):
        raise ValueError(f"comm is {list(comm)}, and the session has ranks 0 to {size - 1}; for some of "
                         f"them alone, or another order, {_REMEDY}")
    if not (hasattr(comm, "Get_rank") and hasattr(comm, "Get_size")):
        raise ValueError(f"comm is {type(comm).__name__}; allowed are None, a list of ranks and an "
                         "mpi4py communicator")
    place, ranks = comm.Get_rank(), comm.Get_size()
    if (place, ranks) != (rank, size):
        raise ValueError(f"comm has this process as rank {place} of {ranks}, which is rank {rank} of "
                         f"{size} in the session; shutdown() first, or {_REMEDY}")


@contextlib.contextmanager
def environment(variables):
    """The variables hold inside the with; those that are None are not set."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def is_under_mpi():
    """Whether MPI's launcher started this process, and no other one since."""
    return "TORCHELASTIC_RUN_ID" not in os.environ and any(name in os.environ for name in _SIZES)


def _check_list(ranks):
    if not all(type(rank) is int and rank >= 0 for rank in ranks) or len(set(ranks)) < len(ranks):
        raise ValueError(f"comm is {list(ranks)}; allowed are the ranks that are to be the job, each "
                         "once, and an mpi4py communicator of them")


def _meet(comm):
    """On all ranks of the communicator."""
    own = (socket.gethostname(), _address(), hosts.free_port(), secrets.token_hex(16))
    places = comm.allgather(own)
    _, address, port, key = places[0]
    is_one_host = len({name for name, *_ in places}) == 1
    return {**dict.fromkeys((*_SIZES, "TORCHELASTIC_RUN_ID")),
            "RANK": str(comm.Get_rank()), "WORLD_SIZE": str(len(places)),
            "LOCAL_WORLD_SIZE": str(len(places)) if is_one_host else None,
            "SCALECOM_RENDEZVOUS": f"{'127.0.0.1' if is_one_host else address}:{port}",
            "SCALECOM_RENDEZVOUS_KEY": key}


def _address():
    """One by which other hosts reach this one, as a place has it: IPv4 where there is one."""
    name = socket.gethostname()
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError):
            for *_, place in socket.getaddrinfo(name, None, family=family, type=socket.SOCK_DGRAM):
                if hosts.is_reachable(place[0]):
                    return hosts.in_place(place[0])
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # Sends nothing: it asks which interface would.
            if hosts.is_reachable(found := probe.getsockname()[0]):
                return hosts.in_place(found)
    return name
