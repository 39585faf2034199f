"""Jobs of several ranks on this machine, started without MPI, and what becomes of them. No pytest
needed: tools/test-gpu has these on machines without it."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(sys.executable).parent
MPI_VARIABLES = ("OMPI_", "PMI_", "PMIX_")


class Outcome:
    """What became of the ranks of one launch.

    values: what the function returned, by rank; absent for a rank that raised or died. errors:
    traceback, by rank. output: everything the ranks and mpirun printed. status: mpirun's.
    """

    def __init__(self, folder, ranks, status, output):
        self.ranks = ranks
        self.status = status
        self.output = output
        self.values = {}
        self.errors = {}
        for rank in range(ranks):
            path = folder / f"rank{rank}.json"
            if not path.exists():
                continue
            verdict = json.loads(path.read_text())
            if "error" in verdict:
                self.errors[rank] = verdict["error"]
            else:
                self.values[rank] = verdict["value"]

    def check(self):
        """Fails the test unless every rank ended well; returns their values in rank order."""
        silent = [rank for rank in range(self.ranks)
                  if rank not in self.values and rank not in self.errors]
        problems = [f"rank {rank}:\n{error}" for rank, error in sorted(self.errors.items())]
        if silent:
            problems.append(f"ranks {silent} gave no verdict (status {self.status})")
        assert not problems, "\n".join([*problems, "output:", self.output[-4000:]])
        return [self.values[rank] for rank in range(self.ranks)]


def rank_environment(extra=None):
    """The environment of ranks: without settings that the caller's shell happens to have."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SCALECOM_", "HOROVOD_", "TORCHELASTIC_", "SLURM_"))
                   and name not in ("RANK", "WORLD_SIZE")}
    environment["OMPI_MCA_mpi_yield_when_idle"] = "1"
    environment["OMP_NUM_THREADS"] = "1"
    environment["XDG_CACHE_HOME"] = str(HERE.parent.parent / "build" / "cache")
    if os.geteuid() == 0:
        environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    environment.update(extra or {})
    return environment


def run_limited(command, timeout, **options):
    """subprocess.run with both streams together; on a time-out its output says so."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, text=True, **options)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun ends its ranks.
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        return None, f"{output}\nno end within {timeout} s"


def is_alive(pid, within_s=0.0):
    """Whether a process, perhaps of another parent, is still there after a time; a zombie is not."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def environment(extra=None):
    """As of a machine without MPI: nothing of it in the environment, on the path, or to load."""
    kept = {name: value for name, value in rank_environment(extra).items()
            if not name.startswith(MPI_VARIABLES)}
    return {**kept, "PATH": f"{BIN}:/usr/bin:/bin:/usr/sbin"}


def rank_variables(rank, ranks, port):
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


class Job:
    """Ranks as plain processes. arguments: the program's, or which they are by rank. variables(rank): more
    of the environment, or less where None."""

    def __init__(self, folder, ranks, program, arguments=None, *, port=None, env=None,
                 variables=lambda rank: {}, starting=None, wrapper=()):
        self.folder = folder / f"job{len(list(folder.iterdir()))}"
        self.folder.mkdir()
        self.ranks = ranks
        port = port or free_port()
        self.processes = {}
        for rank in range(ranks) if starting is None else starting:
            own = {**environment(env), **rank_variables(rank, ranks, port), **variables(rank)}
            own = {name: value for name, value in own.items() if value is not None}
            log = open(self.folder / f"log{rank}", "w+")
            given = arguments(rank) if callable(arguments) else arguments or {}
            self.processes[rank] = subprocess.Popen(
                [*wrapper, sys.executable, HERE / "run_program.py", program, self.folder,
                 json.dumps(given)],
                env=own, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def outcome(self, timeout=60):
        deadline = time.monotonic() + timeout
        try:
            for process in self.processes.values():
                process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # It gave no verdict.
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()
        output = "".join(path.read_text() for path in sorted(self.folder.glob("log*")))
        return Outcome(self.folder, self.ranks, None, output)
