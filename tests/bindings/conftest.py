"""Launches functions of tests/bindings/programs on several ranks and collects their verdicts.

    def test_x(launch):
        launch(4, "programs.surface:sums_over_ranks")

A program is a function that every rank calls; it returns something JSON can hold, or raises. The
test process asserts: a rank that raised, died or did not end in time fails the test with what it
said.
"""

import functools
import json
import shutil
import sys

import pytest
from jobs import HERE, Outcome, rank_environment, run_limited


# Options of mpirun, which else ends every rank when one dies.
RECOVERY = ("--mca", "orte_enable_recovery", "1")


def mpirun_command(ranks, options=()):
    mpirun = shutil.which("mpirun.openmpi") or shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("mpirun is not installed (package openmpi-bin)")
    return [mpirun, "--oversubscribe", "--bind-to", "none", *options, "-np", str(ranks)]


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
    # What jax compiles here runs a few times: to make it fast took a sixth of its tests' time.
    env = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **(env or {})}
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


@pytest.fixture
def run_example(tmp_path):
    """run_example(ranks, file in docs/examples, arguments...) -> the figures that it writes."""
    def run(ranks, name, *arguments, env=None, timeout=240):
        figures = tmp_path / "figures.json"
        command = [*mpirun_command(ranks), sys.executable,
                   str(HERE.parent.parent / "docs" / "examples" / name), *arguments, "--json",
                   str(figures)]
        status, output = run_limited(command, timeout, env=rank_environment(env), cwd=tmp_path)
        assert status == 0, output[-4000:]
        return json.loads(figures.read_text())

    return run


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
                arguments={"module": module}, timeout=180,
                env={"SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "20"})
        verdicts = self.outcomes[key].check()
        problems = [f"rank {rank}:\n{verdict[claim]}" for rank, verdict in enumerate(verdicts)
                    if verdict[claim]]
        assert not problems, "\n".join([*problems, self.outcomes[key].output[-4000:]])


@pytest.fixture(scope="session")
def claims(tmp_path_factory):
    return Claims(tmp_path_factory.mktemp("claims"))
