"""Process sets: ranks that run collectives together, beside those of the other sets.

Each set has connections, names, residuals and a thread of its own, so a set that waits for one of its
ranks holds up no other. The order in which a rank submits to different sets does not matter.
"""

import contextlib
import ctypes
import threading

from scalecom import _library, basics
from scalecom._library import lib
from scalecom.reductions import Max, Min


def _ranks_of(communicator):
    """The job's ranks in an mpi4py communicator."""
    from mpi4py import MPI
    group, everyone = communicator.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        return MPI.Group.Translate_ranks(group, None, everyone)
    finally:
        group.Free()
        everyone.Free()


class ProcessSet:
    """Some of the job's ranks, given as a list or as an mpi4py communicator.

    process_set_id: 0 for global_process_set, 1 or more from add_process_set() or init() on, None for
    a set that is not in use. mpi_comm: the communicator that it was given as, or None. Raises
    ValueError unless the ranks are different whole numbers, 0 or more.
    """

    def __init__(self, ranks_or_comm):
        self.mpi_comm = ranks_or_comm if hasattr(ranks_or_comm, "Get_group") else None
        ranks = ranks_or_comm if self.mpi_comm is None else _ranks_of(ranks_or_comm)
        if isinstance(ranks, (str, bytes)) or not hasattr(ranks, "__iter__"):
            raise ValueError(f"ranks_or_comm is {type(ranks).__name__}; a list of ranks or an mpi4py "
                             "communicator is needed")
        ranks = list(ranks)
        if not all(type(rank) is int and rank >= 0 for rank in ranks) or (
                len(set(ranks)) < len(ranks)):
            raise ValueError(f"ranks_or_comm is {ranks}; allowed are whole numbers, 0 or more, each once")
        self._ranks = sorted(ranks)
        self.process_set_id = None
        self.name_counters = {}  # Of the calls without a name, by kind, since the last join.
        self.joins = 0  # That have ended.
        self.residual_owners = {}  # Of the session's residuals, by name; see claim().
        self.reducing = {}  # Whose gradient of a name is being reduced, by name; the one dict for all sessions.

    @property
    def ranks(self):
        """In rising order; of the global set, none before init()."""
        if self.process_set_id == 0:
            return list(range(basics.size())) if basics.is_initialized() else []
        return list(self._ranks)

    def size(self):
        """Number of its ranks; None where it is not in use. ValueError before init()."""
        return None if self._world_rank() is None else len(self.ranks)

    def rank(self):
        """This process's place in it; None where it is not in use or this process not in it.
        ValueError before init()."""
        return self.ranks.index(self._world_rank()) if self.included() else None

    def included(self):
        """Whether this process is in it; None where it is not in use. ValueError before init()."""
        rank = self._world_rank()
        return None if rank is None else rank in self.ranks

    def _world_rank(self):
        return None if self.process_set_id is None else basics.rank()

    def place_of(self, rank):
        """The place in the set of a rank of the job. ValueError where it is not in it."""
        if rank not in self.ranks:
            raise ValueError(f"rank {rank} is not in {self}")
        return self.ranks.index(rank)

    def __str__(self):
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"

    __repr__ = __str__


global_process_set = ProcessSet([])
global_process_set.process_set_id = 0

_added = []
_connected = []
_of_thread = threading.local()
_count_lock = threading.Lock()


def _check_of_all_ranks(function, *arguments):
    """Calls and checks what waits in C for all ranks, in a thread of its own: handlers of signals run
    meanwhile. What one of them interrupts goes on until the ranks have come or the session ends, and nothing
    here knows of it then: shutdown() and init() begin anew."""
    problems = []

    def call():
        try:
            _library.check(function(*arguments))  # It reads this thread's last error.
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=call, name="scalecom-process-set", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if problems:
        raise problems[0]


def add_process_set(process_set):
    """Makes a ProcessSet, or one of a list of ranks, usable, and returns it. Every rank of the job
    calls it, with the same ranks in the same order of calls; it waits for all of them. Raises
    ValueError for ranks that are not there or that another set has, ValueError or HorovodInternalError
    where one of its ranks cannot connect."""
    if not isinstance(process_set, ProcessSet):
        process_set = ProcessSet(process_set)
    ranks = process_set.ranks
    if process_set in _added or process_set is global_process_set:
        raise ValueError(f"{process_set} was added already")
    number = ctypes.c_int32()
    _check_of_all_ranks(lib.scalecom_process_set_add, (ctypes.c_int32 * len(ranks))(*ranks), len(ranks),
                        ctypes.byref(number))
    return _take(process_set, number.value, _added)


def _all_reduce_in_init(what, number, op):
    words = _library.own_name("process sets (in init())", what)
    return int(_library.all_reduce_number(f"allreduce.{words}".encode(), number, op))


def with_those_of_other_ranks(sets):
    """These sets for init(), and in the place of one that is an mpi4py communicator those too that other
    ranks have there: a communicator that was split is another one on each of its parts. In each place
    the sets are in the order of their first ranks. Every rank of the job calls it, also without sets;
    ValueError on all of them unless each has as many."""
    most = _all_reduce_in_init("most", len(sets), Max)
    if most == 0:
        return sets
    fewest = _all_reduce_in_init("fewest", len(sets), Min)
    if fewest < most:
        raise ValueError(f"process_sets has {len(sets)} sets on this rank, and {fewest} to {most} on the ranks of "
                         "the job; every rank gives as many, one outside a communicator a list of its ranks")
    if not _all_reduce_in_init("parts", any(one.mpi_comm is not None for one in sets), Max):
        return sets
    from scalecom import arrays  # It needs numpy.
    everyone = arrays.allgather_object([one.ranks for one in sets],
                                       _library.own_name("process sets (in init())"))
    joint = []
    for place, mine in enumerate(sets):
        if mine.mpi_comm is None:
            joint.append(mine)
        else:
            joint += [mine if list(ranks) == mine.ranks else ProcessSet(ranks)
                      for ranks in sorted({tuple(theirs[place]) for theirs in everyone})]
    return joint


def remove_process_set(process_set):
    """Ends a set that was added, and returns True; False for the global set and for one that was not
    added. Every rank of the job calls it, in the same order of calls, when nothing of the set is in
    flight."""
    if process_set is global_process_set or process_set not in _added:
        return False
    basics.finish_dispatched()
    _check_of_all_ranks(lib.scalecom_process_set_remove, process_set.process_set_id)
    _forget(process_set, _added)
    return True


def connect_process_set(ranks, exchange):
    """A set of these ranks of the job, in this order, which they make without the others.

    exchange(mine, limit_s): gives bytes to the other ranks of the set, and returns everyone's as a
    list in the set's order; it raises when they have not all come within limit_s seconds. It is called
    in this thread, several times, as often on each of the ranks. The set's number is this process's own;
    leave_process_set() ends it. Raises what exchange() raised, ValueError or HorovodInternalError.
    """
    process_set = ProcessSet(ranks)
    process_set._ranks = list(ranks)
    problems = []

    def call(_, mine, count, limit_s, everyone):
        try:
            for place, theirs in enumerate(exchange(ctypes.string_at(mine, count), limit_s)):
                _library.check(lib.scalecom_exchanged_put(everyone, place, theirs, len(theirs)))
            return 0
        except BaseException as problem:
            problems.append(problem)
            return 1

    number = ctypes.c_int32()
    code = lib.scalecom_process_set_connect((ctypes.c_int32 * len(ranks))(*ranks), len(ranks),
                                            _library.Exchange(call), None, ctypes.byref(number))
    if problems:
        raise problems[0]
    _library.check(code)
    return _take(process_set, number.value, _connected)


def leave_process_set(process_set):
    """Ends a set of connect_process_set() for all of its ranks; nothing where it has ended."""
    if process_set in _connected:
        basics.finish_dispatched()
        lib.scalecom_process_set_leave(process_set.process_set_id)
        _forget(process_set, _connected)


def forget_all():
    """The session has ended, and all sets with it."""
    for sets in (_added, _connected):
        for process_set in list(sets):
            _forget(process_set, sets)
    # The ranks of the next session need not have made as many calls in this one.
    _restart_names(global_process_set)


def _restart_names(process_set):
    process_set.name_counters = {}
    process_set.joins = 0
    process_set.residual_owners = {}
    process_set.reducing.clear()


def _take(process_set, number, sets):
    process_set.process_set_id = number
    _restart_names(process_set)
    sets.append(process_set)
    return process_set


def _forget(process_set, sets):
    sets.remove(process_set)
    process_set.process_set_id = None


class _Use:
    def __init__(self, process_set):
        self._process_set = process_set

    def __enter__(self):
        self._before = current()
        self._change_to(self._process_set)

    def __exit__(self, *_):
        self._change_to(self._before)

    @staticmethod
    def _change_to(process_set):
        _library.check(lib.scalecom_process_set_use(process_set.process_set_id))
        _of_thread.process_set = process_set


_no_change = contextlib.nullcontext()


def used(process_set):
    """A context in which this thread's operations are of `process_set`, and rank() and size() of the
    basics too; None and the global set change nothing. ValueError where it is none, not in use, or
    this process is not in it."""
    if process_set is None or process_set is global_process_set:
        return _no_change
    check_in_use(process_set)
    return _Use(process_set)


def check_in_use(process_set):
    """Raises ValueError for what is no process set, or one that is not in use."""
    if not isinstance(process_set, ProcessSet):
        raise ValueError(f"process_set is {process_set!r}; allowed are global_process_set and what "
                         "add_process_set() returned")
    if process_set.process_set_id is None:
        raise ValueError(f"process_set is {process_set}, which is not in use; call "
                         "add_process_set() on every rank first")


def ranks_by_number():
    """The ranks of each set in use that all ranks know, by process_set_id."""
    return {one.process_set_id: one.ranks for one in (global_process_set, *_added)}


def find_process_set(number):
    """The set in use that has this process_set_id. ValueError where there is none."""
    for process_set in (global_process_set, *_added, *_connected):
        if process_set.process_set_id == number:
            return process_set
    raise ValueError(f"no process set with the process_set_id {number} is in use; call "
                     "add_process_set() on every rank first")


_CALLS_OF_A_JOIN = 1 << 32


def call_by_number(process_set, kind, call, refusals=Exception):
    """call(number), of an operation without a name: how many of its kind came before it in this set since the last
    join, above those of any join before. Where it raises one of `refusals`, by which nothing was submitted, the
    number is the next call's again: a rank that was refused may repeat."""
    with _count_lock:
        counters = process_set.name_counters
        count = counters.get(kind, 0)
        counters[kind] = count + 1
        number = process_set.joins * _CALLS_OF_A_JOIN + count
    try:
        return call(number)
    except refusals:
        with _count_lock:
            if process_set.name_counters is counters and counters[kind] == count + 1:
                counters[kind] = count  # No other came behind it, and no join.
        raise


def era(process_set):
    """An object that is another one from the next session or join of the set on: before, the ranks may
    have taken part in different operations."""
    return process_set.name_counters


def join(device=-1):
    """This rank is out of data: it takes part with zeros (gathers: with no rows) in what the others
    still submit, and averages still divide by the number of all ranks. Returns when every rank has
    joined: the last one to do so, the same everywhere. A broadcast from a rank that has joined fails
    on the ranks that submit it; so this rank's own calls do until join returns. Residuals of
    compressed tensors are delivered meanwhile like in any step. device: of this rank's zeros, for
    CUDA tensors, where it has used no CUDA device yet; without any, those of the others fail."""
    basics.finish_dispatched()
    ticket = _library.submit(_library.lib.scalecom_join, (device,), None)
    ticket.wait()
    last = ctypes.c_int64()
    ticket.copy_output(ctypes.addressof(last), None)
    _align_names()
    return last.value


def _align_names():
    """Every rank has joined, after calls of its own number: from here on they count alike again."""
    process_set = current()
    with _count_lock:
        process_set.joins += 1
        process_set.name_counters = {}
    process_set.reducing.clear()


def current():
    """The set that this thread uses."""
    return getattr(_of_thread, "process_set", global_process_set)
