"""Launches functions of tests/bindings/programs on several ranks and collects their verdicts.

    def test_x(launch):
        launch(4, "programs.surface:sums_over_ranks")

A program is a function that every rank calls; it returns something JSON can hold, or raises. The
test process asserts: a rank that raised, died or did not end in time fails the test with what it
said.
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


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


def mpirun_command(ranks, options=()):
    mpirun = shutil.which("mpirun.openmpi") or shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("mpirun is not installed (package openmpi-bin)")
    return [mpirun, "--oversubscribe", "--bind-to", "none", *options, "-np", str(ranks)]


def rank_environment(extra=None):
    """The environment of ranks: without settings that the caller's shell happens to have."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SCALECOM_", "HOROVOD_", "TORCHELASTIC_"))
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


def run_ranks(folder, ranks, program, *, arguments=None, env=None, timeout=60, options=(),
              wrapper=()):
    """Runs a program on all ranks (0: one process without mpirun); returns the Outcome.

    arguments: the program's keyword arguments. options: of mpirun. wrapper: what runs Python.
    """
    verdicts = folder / f"verdicts{len(list(folder.iterdir()))}"
    verdicts.mkdir()
    command = mpirun_command(ranks, options) if ranks > 0 else []
    command += [*wrapper, sys.executable, str(HERE / "run_program.py"), program, str(verdicts),
                json.dumps(arguments or {})]
    status, output = run_limited(command, timeout, env=rank_environment(env), cwd=folder)
    return Outcome(verdicts, max(ranks, 1), status, output)


@pytest.fixture
def launch(tmp_path):
    """launch(ranks, "programs.module:function", ...) -> the ranks' values; see run_ranks."""
    return lambda *arguments, **named: run_ranks(tmp_path, *arguments, **named).check()


@pytest.fixture
def launch_unchecked(tmp_path):
    """As launch, for tests in which ranks die: returns the Outcome."""
    return functools.partial(run_ranks, tmp_path)


class Claims:
    """Runs all claims of a program module in one job and keeps the verdicts.

    A job with torch takes seconds to start, so the claims about healthy jobs share one.
    """

    def __init__(self, folder):
        self.folder = folder
        self.outcomes = {}

    def check(self, ranks, module, claim):
        key = ranks, module
        if key not in self.outcomes:
            self.outcomes[key] = run_ranks(
                self.folder, ranks, "programs.claims:check_all",
                arguments={"module": module}, timeout=120,
                env={"SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "20"})
        verdicts = self.outcomes[key].check()
        problems = [f"rank {rank}:\n{verdict[claim]}" for rank, verdict in enumerate(verdicts)
                    if verdict[claim]]
        assert not problems, "\n".join([*problems, self.outcomes[key].output[-4000:]])


@pytest.fixture(scope="session")
def claims(tmp_path_factory):
    return Claims(tmp_path_factory.mktemp("claims"))
