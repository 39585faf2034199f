"""What every adapter shares: init, shutdown and who this rank is."""

import atexit
import ctypes
import functools
import multiprocessing
import os
import queue
import threading

from scalecom import _library, communicators, worker
from scalecom._library import lib

_init_lock = threading.RLock()


def init(comm=None, process_sets=None):
    """Joins the job this process was launched in. Call it once, before anything else; further calls
    do nothing.

    Under mpirun, srun or torchrun all of its processes are the job, and so are processes with RANK,
    WORLD_SIZE, MASTER_ADDR and MASTER_PORT; under scalecomrun --elastic it meets the others that
    are there now; otherwise this process alone. `comm`: None, or the ranks that are to be the job, in
    this order, which alone call init(): a list of those that mpirun started, or an mpi4py communicator. Some of
    the ranks need mpi4py, and go over TCP and shared memory. `process_sets`: a list of ProcessSet, which
    are added, as many on every rank; one of an mpi4py communicator may have other ranks on other ranks,
    as after a split, and each of those sets is added. "dynamic" adds none, and as many may be added
    later with it as without, and none are allowed under scalecomrun --elastic.
    Raises ValueError when the ranks cannot be connected, another thread's shutdown() calls it off while ranks
    are missing, or the environment is wrong, and
    HorovodInternalError when a rank is lost meanwhile; the message says what to do.
    """
    with _init_lock:  # A session has all that belongs to it when another thread finds it.
        _init(comm, _checked_sets(process_sets))


def _refuse_a_starting_process():
    """multiprocessing's methods spawn and forkserver read the program's file in the processes that they start,
    with the environment that says which rank the parent is. The mark is what multiprocessing itself refuses to
    start processes by there."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValueError('init() was called in a process that multiprocessing starts (as for a DataLoader), while it '
                         'reads the file of the program: it is no rank. Put what the program does under '
                         'if __name__ == "__main__":')


def _init(comm, sets):
    _refuse_a_starting_process()
    if sets and worker.find_driver() is not None:
        raise ValueError("process_sets has sets, which do not outlive a change of ranks in a job of "
                         "scalecomrun --elastic; call add_process_set() after init(), and again in "
                         "a callback of register_reset_callbacks()")
    was_initialized = is_initialized()
    if not was_initialized:
        finish_dispatched()
        if (variables := communicators.place_by(comm)) and worker.find_driver() is not None:
            raise ValueError("comm has not all ranks; a job of scalecomrun --elastic has those that are "
                             "there: leave comm out")
        with communicators.environment(variables or {}):
            code, problem = worker.join(_connect)
        if code != _library.OK:
            raise ValueError(problem)
    try:
        communicators.check_session(comm, rank(), size())
        _process_sets().global_process_set.mpi_comm = comm if hasattr(comm, "Get_rank") else None
        if not was_initialized and worker.find_driver() is None:
            for process_set in _process_sets().with_those_of_other_ranks(sets):
                _process_sets().add_process_set(process_set)
    except BaseException:  # Ctrl-C too.
        if not was_initialized:
            shutdown()
        raise
    _shutdown_at_exit(os.getpid())


def _connect():
    """Returns the code of scalecom_init(), and its error. That waits for other ranks, and on a thread of its
    own, since Python answers signals on the main one: what a handler raises, as Ctrl-C's does, calls it off."""
    outcome = queue.SimpleQueue()
    called_off = threading.Event()

    def connect():
        if not called_off.is_set():
            outcome.put((lib.scalecom_init(), _library.last_error()))

    thread = threading.Thread(target=connect, name="scalecom init", daemon=True)
    try:
        thread.start()
        return outcome.get()
    except BaseException:
        called_off.set()
        while True:
            is_under_way = thread.is_alive()  # Perhaps not in scalecom_init() yet.
            lib.scalecom_shutdown()
            if not is_under_way:
                raise
            thread.join(0.01)


def _process_sets():
    from scalecom import process_sets  # It needs this module.
    return process_sets


def _checked_sets(process_sets):
    if process_sets is None or process_sets == "dynamic":
        return []
    if isinstance(process_sets, (list, tuple)) and all(hasattr(one, "process_set_id")
                                                       for one in process_sets):
        return list(process_sets)
    raise ValueError(f"process_sets is {process_sets!r}; allowed are None, a list of ProcessSet and "
                     '"dynamic"')


@functools.lru_cache(maxsize=None)  # Once for each process.
def _shutdown_at_exit(process):
    def end():
        if os.getpid() == process:  # A forked process has no session of its own.
            shutdown()

    atexit.register(end)


_finishers = []


def add_finisher(finish):
    """For adapters of frameworks that dispatch operations before they submit them: finish() waits until
    all is done that this thread has dispatched, and forgets what failed. It raises nothing."""
    _finishers.append(finish)


def finish_dispatched():
    """Waits for what frameworks have dispatched: what comes next comes after it on every rank."""
    for finish in _finishers:
        finish()


def shutdown():
    """Ends the session on every rank, when what this thread has dispatched by JAX is done; other tensors
    that are in flight fail. May be called again."""
    finish_dispatched()
    lib.scalecom_shutdown()
    _process_sets().forget_all()


def is_initialized():
    """True after init() and before shutdown(), also of a session that has failed."""
    return lib.scalecom_is_initialized() == 1


def _topology():
    topology = _library.Topology()
    code = lib.scalecom_get_topology(ctypes.byref(topology))
    if code != _library.OK:
        raise ValueError(_library.last_error())
    return topology


def rank():
    """This process's number, 0 to size() - 1."""
    return _topology().rank


def size():
    """Number of processes in the job."""
    return _topology().size


def local_rank():
    """This process's number among those of its host; in an elastic job its slot there, which it
    keeps, so that a newcomer takes the lost one's and with it a GPU that is free."""
    topology = _topology()
    driver = worker.find_driver()
    return topology.local_rank if driver is None else driver.local_rank


def local_size():
    """Number of processes on this host."""
    return _topology().local_size


def cross_rank():
    """Number of this host among those that have a process with this local rank."""
    return _topology().cross_rank


def cross_size():
    """Number of hosts that have a process with this local rank."""
    return _topology().cross_size


def is_homogeneous():
    """True when every host runs the same number of processes."""
    return _topology().is_homogeneous == 1


def info():
    """What was built and what runs: the dictionary behind scalecom-info --json."""
    return _library.read_json(lib.scalecom_info)


def stats():
    """What this rank has done since init, counted: bytes and messages sent, tensors, batches."""
    return _library.read_json(lib.scalecom_stats)


def start_timeline(file_path, mark_cycles=False):
    """From now on what happens to each tensor, and when, goes to `file_path`: a Chrome trace for
    Perfetto, that is whole at any moment.

    Rank 0 writes it, whichever ranks call; with "{rank}" in the path, which stands for the rank,
    each rank that calls writes its own. A file that is there is replaced. mark_cycles: with a mark
    for each agreement of the ranks. Raises ValueError before init(), while a timeline runs, and
    where this rank cannot write the file.
    """
    path = os.fsencode(file_path)
    if b"\0" in path:
        raise ValueError(f"file_path is {file_path!r}; a path cannot hold a zero byte")
    _library.check(lib.scalecom_start_timeline(path, int(mark_cycles)))


def stop_timeline():
    """Ends the timeline and returns when its file is complete; does nothing where none runs."""
    _library.check(lib.scalecom_stop_timeline())


def mpi_built():
    """True when this build has a part for MPI."""
    return info()["build"]["mpi"] == "yes"


def mpi_enabled():
    """True when the session's transport is MPI."""
    return info().get("session", {}).get("transport") == "mpi"


def mpi_threads_supported():
    """True when MPI was initialised with MPI_THREAD_MULTIPLE."""
    return info().get("session", {}).get("mpi_thread_level") == "MPI_THREAD_MULTIPLE"


def gloo_built():
    """False: scalecom has transports of its own."""
    return False


def gloo_enabled():
    """False: scalecom has transports of its own."""
    return False


def nccl_built():
    """Version of NCCL for tensors on CUDA devices, such as 22809 for 2.28.9; 0 without it."""
    facts = info()
    return facts["loads"]["nccl_version"] if facts["build"]["cuda"] == "yes" else 0


def cuda_built():
    """True when this build takes tensors on CUDA devices."""
    return info()["build"]["cuda"] == "yes"


def rocm_built():
    """False: there is no build for ROCm."""
    return False


def ddl_built():
    """False: scalecom does not use DDL."""
    return False


def ccl_built():
    """False: scalecom does not use oneCCL."""
    return False
