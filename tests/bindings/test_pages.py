"""The Python blocks of the README and of docs/howto, each run by 2 ranks; and what the examples say without data."""

import importlib.util
import pathlib
import re
import shlex
import sys

import pytest
from jobs import Job, run_limited
from programs import pages

from scalecom import run

PROGRAMS = pathlib.Path(__file__).with_name("programs")
# Python's frameworks are facts of a process. The torch job is as torchrun starts one.
MODULES = {"pages_torch": (("torch",), {}),
           "pages_jax": (("jax", "optax"), {}),
           "pages_tensorflow": (("tensorflow", "keras"), {"KERAS_BACKEND": "tensorflow"})}


@pytest.mark.parametrize("module", MODULES)
def test_the_blocks_of_the_pages_run(tmp_path, module):
    needed, env = MODULES[module]
    if not all(map(importlib.util.find_spec, needed)):
        pytest.skip(f"{' or '.join(needed)} is not installed")
    job = Job(tmp_path, 2, "programs.claims:check_all", {"module": f"programs.{module}"},
              env={"SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "20", **env})
    verdicts = job.outcome(timeout=120).check()
    problems = [f"rank {rank}, {claim}:\n{problem}" for rank, verdict in enumerate(verdicts)
                for claim, problem in verdict.items() if problem]
    assert not problems, "\n".join(problems)


def test_every_block_is_run():
    called = {(name, int(number)) for module in (*MODULES, "legacy_keras")
              for name, number in re.findall(r'\brun\("([\w-]+)", (\d+)', (PROGRAMS / f"{module}.py").read_text())}
    assert called == {(name, number) for name in pages.pages() for number in range(len(pages.blocks(name)))}


def test_scalecomrun_takes_the_pages_options():
    command = re.compile(r"^ {4,}(?:[A-Z_]+=\S+ )*scalecomrun (.*)$", re.MULTILINE)
    lines = [line for page in pages.pages().values()
             for line in command.findall(page.read_text().replace("\\\n", " "))]
    assert len(lines) >= 7
    for line in lines:
        options = run._make_parser().parse_args(shlex.split(line.rstrip("'"), comments=True))
        assert options.command[:2] == ["python", "train.py"], line


def test_an_example_without_data_says_what_to_install():
    script = ("import pathlib, sys, fashion_mnist_data as data\n"
              "data.FASHION_MNIST, sys.modules['sklearn'] = pathlib.Path('/nowhere'), None\n"
              "data.load_data()")
    status, output = run_limited([sys.executable, "-c", script], 60, cwd=pages.ROOT / "docs" / "examples")
    assert status == 1 and "dataset-fashion-mnist, or scikit-learn" in output and "Traceback" not in output, output
