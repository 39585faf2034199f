"""A function on every rank of a job of its own. Each rank is python -m scalecom.launch.function FOLDER;
the call, and what each rank returns, are files in that folder."""

import multiprocessing.spawn
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback

from scalecom import _library, elastic, pickling
from scalecom.exceptions import HorovodInternalError
from scalecom.launch import hosts as host_lists
from scalecom.launch import processes

_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "RANK")


def run(func, args=(), kwargs=None, num_proc=1, hosts=None, launcher="auto", launcher_args="",
        executable=None, environment=None, verbose=False):
    """Calls func(*args, **kwargs) on num_proc ranks, and returns what it returned on each, in rank order.

    The function calls init() itself. It, its arguments and its results go by cloudpickle where that is
    installed. By pickle a function is one of a module, or of the script, which each rank then imports:
    the script has its call of run() under `if __name__ == "__main__":`. hosts: as of scalecomrun -H; default:
    this host. Others have to share the working folder, through which the call and the results go.
    launcher: "local", "mpirun", with launcher_args, or "auto", which is mpirun on several hosts. executable: the
    Python to run; default: this one. environment: variables besides those of this process. verbose: tells the
    command.

    ValueError for wrong arguments; RuntimeError where a rank raised or ended, which names the first that did
    so by itself and has its traceback.
    """
    is_here = _check(num_proc, hosts, launcher)
    if launcher == "auto":
        launcher = "local" if is_here else "mpirun"
    main = sys.modules.get("__mp_main__")
    if main is not None and main is not sys.modules["__main__"]:
        raise RuntimeError("run() was called while a rank imports the script; put its call under "
                           'if __name__ == "__main__":')
    with tempfile.TemporaryDirectory(prefix="scalecom-", dir=None if is_here else os.getcwd()) as name:
        folder = pathlib.Path(name)
        (folder / "call").write_bytes(_preparation() + _dump_call(func, args, kwargs or {}))
        command = [executable or sys.executable, "-m", "scalecom.run", "-np", str(num_proc),
                   "--launcher", launcher, f"--launcher-args={launcher_args}",
                   *(["--hosts", hosts] if hosts else []), *(["--verbose"] if verbose else []),
                   executable or sys.executable, "-m", "scalecom.launch.function", name]
        status = _wait(command, {**os.environ, **(environment or {})})
        return _results(folder, num_proc, status)


def _check(num_proc, hosts, launcher):
    """Returns whether all ranks are on this host."""
    if launcher not in ("auto", "local", "mpirun"):
        raise ValueError(f"launcher is {launcher!r}; allowed: 'auto', 'local' and 'mpirun'. Put the function in "
                         f"a script for another: scalecomrun -np {num_proc} --launcher srun")
    if type(num_proc) is not int or num_proc < 1:
        raise ValueError(f"num_proc is {num_proc!r}; allowed: a whole number, 1 or more")
    found = host_lists.parse_hosts(hosts) if hosts else []
    strangers = [host.name for host in found if not host_lists.is_local(host.name)]
    if strangers and launcher == "local":
        raise ValueError(f"hosts has {', '.join(strangers)}, and launcher is 'local', which starts ranks on this "
                         "host only; leave it out")
    room = sum(host.slots for host in found)
    if found and room < num_proc:
        raise ValueError(f"num_proc is {num_proc}, and the hosts have {room} slots; give more slots")
    return not strangers


def _preparation():
    """What a rank needs before the call can be read: as for a process of multiprocessing."""
    data = multiprocessing.spawn.get_preparation_data("rank")
    data.pop("authkey")
    if pickling.TAKES_FUNCTIONS:  # Those of the script come by value.
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return pickle.dumps(data)


def _dump_call(func, args, kwargs):
    if not callable(func):
        raise ValueError(f"func is {func!r}; allowed: a function, and its arguments behind it: run(train, (0.1,))")
    if not isinstance(args, (tuple, list)):
        raise ValueError(f"args is {args!r}; allowed: a tuple or a list of the function's arguments, such as ({args!r},)")
    try:
        return pickling.dumps((func, args, kwargs))
    except Exception as error:  # Whatever an object's own way of being pickled raises.
        raise ValueError(f"{func!r} or its arguments cannot be pickled ({error}); define the function at "
                         "the top of a module or script, or install cloudpickle") from error


def _wait(command, environment):
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except BaseException:  # It ends its ranks.
        process.terminate()
        try:
            process.wait(2 * processes.GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _results(folder, ranks, status):
    files = {rank: path for rank in range(ranks) if (path := folder / f"rank{rank}").exists()}
    verdicts = {rank: pickle.loads(path.read_bytes()) for rank, path in files.items()}
    failed = [rank for rank, (_, error, _) in verdicts.items() if error is not None]
    if failed:  # Files may have the same time, and hosts other clocks.
        first = min(failed, key=lambda rank: (verdicts[rank][2], files[rank].stat().st_mtime_ns))
        raise RuntimeError(f"rank {first} of {ranks} failed:\n{verdicts[first][1]}")
    silent = [rank for rank in range(ranks) if rank not in verdicts]
    if silent or status != 0:
        raise RuntimeError(f"of {ranks} ranks, {silent} gave no result, and their launcher ended with "
                           f"exit code {status}; what it and they wrote tells why")
    return [pickling.loads(verdicts[rank][0]) for rank in range(ranks)]


def main():
    """One rank. Exit code: 1 where the function raised."""
    folder = pathlib.Path(sys.argv[1])
    rank = next(filter(None, map(os.environ.get, _RANK_VARIABLES)))
    value = error = None
    is_of_the_job = False
    if not folder.exists():
        sys.exit(f"rank {rank} on {socket.gethostname()}: there is no {folder}, where the call is; a function on "
                 "several hosts needs a working folder that they share")
    try:
        with open(folder / "call", "rb") as file:
            multiprocessing.spawn.prepare(pickle.load(file))
            func, args, kwargs = pickle.load(file)
        value = pickling.dumps(func(*args, **kwargs))
    except Exception as raised:
        error = traceback.format_exc()
        # Another rank may be why: the first that fails by itself is to be told.
        is_of_the_job = isinstance(raised, HorovodInternalError) or elastic.session_code() != _library.OK
    part = folder / f"rank{rank}.part"
    part.write_bytes(pickle.dumps((value, error, is_of_the_job)))
    part.rename(folder / f"rank{rank}")
    return 0 if error is None else 1


if __name__ == "__main__":
    sys.exit(main())
