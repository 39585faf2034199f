"""Elastic jobs: ranks are killed, come and go, and training goes on from the last commit."""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
from conftest import mpirun_command
from jobs import HERE, is_alive, rank_environment, run_limited
from scripts import elastic_training

SCRIPT = HERE / "scripts" / "elastic_training.py"
GO_ON_S_MAX = 10.0
LIMIT_S = 60.0


class ElasticJob:
    """scalecomrun with elastic_training.py, and what its ranks have written down."""

    def __init__(self, folder, *options, env=None, wrapper=(), **training):
        self.folder = folder / "journals"
        self.folder.mkdir()
        self._output = open(folder / "output", "w+")
        self._deadline = time.monotonic() + training.pop("limit", LIMIT_S)
        script = training.pop("script", SCRIPT)
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "scalecom.run", "--elastic", *options, sys.executable,
             script, self.folder, json.dumps(training)],
            env=rank_environment(env), stdout=self._output, stderr=self._output,
            stdin=subprocess.DEVNULL)

    def lines(self):
        """Of all ranks, in the order of time."""
        found = []
        for path in self.folder.glob("*.log"):
            whole = path.read_text().rpartition("\n")[0]
            found += [json.loads(line) for line in whole.splitlines()]
        return sorted(found, key=lambda line: line["time"])

    def output(self):
        self._output.flush()
        return (self.folder.parent / "output").read_text()

    def wait_for(self, condition):
        """The first line for which a condition holds."""
        while time.monotonic() < self._deadline:
            for line in self.lines():
                if condition(line):
                    return line
            assert self.process.poll() is None, self.output()
            time.sleep(0.02)  # A file tells nobody that it grows.
        raise AssertionError(f"it did not happen in time:\n{self.output()}\n{self.lines()[-5:]}")

    def steps_of(self, size, since=0.0):
        return self.wait_for(lambda line: "step" in line and line["size"] == size
                             and line["time"] > since)

    def kill_rank(self, rank):
        """Kills a rank with SIGKILL; when."""
        last = [line for line in self.lines() if "pid" in line and line["rank"] == rank][-1]
        killed_at = time.monotonic()
        os.kill(last["pid"], signal.SIGKILL)
        return killed_at

    def kill_held_rank(self, victim, ranks):
        """Once all ranks hold (see elastic_training.py), kills one, and lets the others go on; when."""
        for rank in range(ranks):
            self.wait_for(lambda line: "holds" in line and line["rank"] == rank)
        killed_at = self.kill_rank(victim)
        (self.folder / "go").touch()
        return killed_at

    def end(self):
        """scalecomrun's exit code."""
        try:
            return self.process.wait(max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output()}") from None


@pytest.fixture
def start(tmp_path):
    """start(*options, **training) -> an ElasticJob, ended with the test."""
    with contextlib.ExitStack() as stack:
        def begin(*options, **named):
            job = ElasticJob(tmp_path, *options, **named)
            stack.callback(lambda: (job.process.terminate(), job.process.wait(30)))
            return job

        yield begin


def reference(steps):
    """The losses of dense training, step by step."""
    inputs, targets, rate = elastic_training.data()
    model = torch.nn.Linear(8, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs).squeeze() - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check_training(lines):
    """Each step had the loss that it has without any loss of ranks, and none was left out."""
    done = [line for line in lines if "step" in line]
    steps = 1 + max(line["step"] for line in done)
    expected = reference(steps)
    assert {line["step"] for line in done} == set(range(steps))
    for line in done:
        assert line["loss"] == pytest.approx(expected[line["step"]], rel=1e-3, abs=1e-9), line


def check_resets(lines):
    """No rank goes back behind its last commit when it begins again."""
    committed = {}
    for line in lines:
        if "commit" in line:
            committed[line["pid"]] = line["commit"]
        if "begins" in line and line["pid"] in committed:
            assert line["begins"] >= committed[line["pid"]], line


def ended(lines):
    return [line for line in lines if "ended" in line]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_training_goes_on_without_a_killed_rank(start, victim):
    job = start("-np", "3", "--min-np", "2", "--slot-failures", "1", steps=60, hold=11,
                indices=100)
    killed_at = job.kill_held_rank(victim, 3)
    goes_on = job.steps_of(size=2, since=killed_at)
    assert goes_on["time"] - killed_at < GO_ON_S_MAX
    assert job.end() == 0, job.output()
    lines = job.lines()
    check_training(lines)
    check_resets(lines)
    assert [line["ended"] for line in ended(lines)] == [60, 60]
    assert [line["processed"] for line in ended(lines)] == [list(range(100))] * 2
    assert "was ended by SIGKILL" in job.output()


def test_a_replacement_joins_and_gets_the_state(start):
    job = start("-np", "3", "--min-np", "2", steps=10_000, pause=0.02)
    job.wait_for(lambda line: line.get("step") == 10)
    former = {line["pid"] for line in job.lines()}
    killed_at = job.kill_rank(0)
    job.steps_of(size=2, since=killed_at)
    newcomer = job.wait_for(lambda line: line["pid"] not in former and "step" in line)
    assert newcomer["size"] == 3 and newcomer["rank"] == 2 and newcomer["step"] > 10
    assert newcomer["local_rank"] == 0, "it takes the lost rank's slot"
    # Without the optimizer's momentum its model would be another one by then.
    job.wait_for(lambda line: line["pid"] == newcomer["pid"]
                 and line.get("step") == newcomer["step"] + 10)
    lines = job.lines()
    check_training(lines)
    check_resets(lines)


@pytest.mark.parametrize("op, scale", [("Average", 2 / 3), ("Sum", 1)])
def test_what_survivors_owe_stays_owed(start, op, scale):
    """A residual of 1 in 3 ranks stands for 1/3 of the average, and so does one of 2/3 in 2; of the
    sum it stands for 1 in any number of ranks."""
    compression = {"rate": 4, "warmup_steps": 0, "mode": "cyclic"}
    job = start("-np", "3", "--min-np", "2", "--slot-failures", "1", steps=10_000, pause=0.2,
                compression=compression, width=2048, op=op)
    job.wait_for(lambda line: line.get("step") == 10)
    job.kill_rank(2)
    begins = [job.wait_for(lambda line: "begins" in line and line["size"] == 2
                           and line["rank"] == rank) for rank in range(2)]
    lines = job.lines()
    for begin in begins:
        before = [line["residual"] for line in lines if line.get("step") == begin["begins"] - 1
                  and line["pid"] == begin["pid"]]
        assert abs(before[0]) > 0.1
        assert begin["residual"] == pytest.approx(before[0] * scale, rel=1e-4)
    assert "the residuals of 1 of 3 ranks are lost with them" in job.output()


def write_discovery(tmp_path, slots):
    """A script that says how many slots there are, by a file that is replaced at once."""
    part = tmp_path / "slots.part"
    part.write_text(f"localhost:{slots}\n")
    part.rename(tmp_path / "slots")
    script = tmp_path / "discover"
    if not script.exists():
        script.write_text(f"#!/bin/sh\ncat {tmp_path / 'slots'}\n")
        script.chmod(0o755)
    return str(script)


def test_ranks_come_and_go_as_the_discovery_script_says(start, tmp_path):
    script = write_discovery(tmp_path, 1)
    job = start("--min-np", "1", "--max-np", "3", "--host-discovery-script", script, steps=10_000,
                pause=0.02)
    job.steps_of(size=1)
    write_discovery(tmp_path, 3)
    grown = job.steps_of(size=3)
    write_discovery(tmp_path, 2)
    job.steps_of(size=2, since=grown["time"])
    lines = job.lines()
    check_resets(lines)
    check_training(lines)
    assert "the hosts are localhost:2 now" in job.output()


def test_a_disagreement_is_raised_and_not_retried(start):
    job = start("-np", "2", "--prefix-output", steps=20, mistake="shape")
    assert job.end() == 1
    output = job.output()
    assert "shape differs between ranks" in output and "is not retried" in output
    assert len(re.findall("Traceback", output)) == 2, output
    assert not any("reset" in line for line in job.lines())


def test_an_exception_of_all_ranks_ends_the_job_with_its_code(start):
    job = start("-np", "2", "--prefix-output", steps=20, mistake="exception")
    assert job.end() == 1
    assert "KeyError: 'no such column'" in job.output() and "no rank is left" in job.output()


def test_resets_without_a_commit_come_to_an_end(start):
    job = start("-np", "2", steps=20, mistake="endless", commit_every=100)
    assert job.end() == 1
    assert "10 resets followed each other without a commit()" in job.output(), job.output()


def test_too_few_ranks_end_the_job_at_once_where_none_can_come(start):
    job = start("-np", "2", "--min-np", "2", "--slot-failures", "1", steps=10_000, pause=0.02)
    job.wait_for(lambda line: line.get("step") == 5)
    job.kill_rank(1)
    assert job.end() == 1
    assert "1 ranks are left, --min-np is 2, and there is no slot" in job.output(), job.output()


def test_too_few_ranks_end_the_job_after_the_time_where_some_might_come(start, tmp_path):
    script = write_discovery(tmp_path, 2)
    job = start("--min-np", "2", "--max-np", "2", "--host-discovery-script", script,
                "--elastic-timeout", "10", "--slot-failures", "1", steps=10_000, pause=0.02)
    job.wait_for(lambda line: line.get("step") == 5)
    job.kill_rank(0)
    assert job.end() == 1
    assert "came to meet within 10 s" in job.output() and "--min-np is 2" in job.output()


def test_the_reset_limit_holds(start):
    job = start("-np", "3", "--min-np", "1", "--reset-limit", "1", "--slot-failures", "1",
                steps=10_000, pause=0.02)
    job.wait_for(lambda line: line.get("step") == 5)
    killed_at = job.kill_rank(2)
    job.steps_of(size=2, since=killed_at)
    job.kill_rank(1)
    assert job.end() == 1 and "all that --reset-limit allows" in job.output(), job.output()


def test_a_command_that_fails_at_once_is_not_started_again(tmp_path):
    status, output = run_limited(
        [sys.executable, "-m", "scalecom.run", "-np", "2", "--min-np", "1", sys.executable, "-c",
         "import sys; sys.exit(5)"], 60, env=rank_environment())
    assert status == 5 and "no rank is left that could go on" in output, output


@pytest.mark.parametrize("arguments, message", [
    (("--min-np", "3", "-np", "2"), "--min-np is 3, -np 2"),
    (("--elastic",), "-np is missing"),
    (("--min-np", "1", "-np", "2", "-H", "localhost:1,127.0.0.1:1"), "which are all this host"),
    (("--min-np", "1", "-np", "2", "--remote-shell", ""), "--remote-shell is empty"),
    (("--min-np", "1", "-np", "2", "--own-address", "here"), "--own-address is here; give an address"),
    (("--min-np", "1", "-np", "2", "--blacklist-cooldown-range", "3", "2"), "is 3 2; give the"),
    (("--min-np", "2", "--max-np", "2", "-H", "localhost:1"), "the hosts have 1 slots"),
    (("--min-np", "1", "--launcher", "mpirun"), "--launcher is mpirun"),
    (("--min-np", "1", "--host-discovery-script", "/absent"), "/absent cannot be run"),
])
def test_wrong_elastic_arguments_are_named(arguments, message):
    status, output = run_limited([sys.executable, "-m", "scalecom.run", *arguments, sys.executable,
                                  "-c", "pass"], 60, env=rank_environment())
    assert status == 2 and message in output, output


def test_ranks_end_with_a_driver_that_is_killed(start):
    job = start("-np", "2", steps=2, pause=60.0)  # They say nothing to it for that long.
    ranks = [job.wait_for(lambda line: line["rank"] == one and "step" in line)["pid"] for one in (0, 1)]
    job.process.kill()
    assert not any(is_alive(pid, within_s=10.0) for pid in ranks)


def test_strangers_are_not_let_in(start):
    job = start("-np", "1", steps=10_000, pause=0.02)
    line = job.wait_for(lambda line: "step" in line)
    environment = dict(part.split("=", 1) for part in open(
        f"/proc/{line['pid']}/environ").read().split("\0") if "=" in part)
    stranger = {name: environment[f"SCALECOM_ELASTIC_{name}"] for name in ("ADDRESS", "WORKER")}
    code = ("from scalecom.worker import Driver\n"
            f"Driver({stranger['ADDRESS']!r}, 'guessed', {stranger['WORKER']}).meet()")
    status, output = run_limited([sys.executable, "-c", code], 60, env=rank_environment())
    assert status == 1 and "does not take this process for one of its workers" in output, output


def test_without_a_driver_a_lost_rank_says_what_would_help(tmp_path):
    command = [*mpirun_command(2, ["--enable-recovery"]), sys.executable, str(SCRIPT),
               str(tmp_path), json.dumps({"steps": 10_000, "pause": 0.02})]
    with open(tmp_path / "output", "w+") as output:
        process = subprocess.Popen(command, env=rank_environment(), stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + LIMIT_S
            while not (found := [json.loads(line) for path in tmp_path.glob("*.log") for line in
                                 path.read_text().rpartition("\n")[0].splitlines()
                                 if '"rank": 1' in line]):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            os.kill(found[0]["pid"], signal.SIGKILL)
            process.wait(LIMIT_S)
        finally:
            process.kill()
            process.wait()
    assert "scalecomrun --elastic goes on without it" in (tmp_path / "output").read_text()


@pytest.mark.slow
def test_twenty_kills_in_a_row_are_survived(start):
    """Prints the times from a kill to the next step that is done."""
    job = start("-np", "3", "--min-np", "1", "--slot-failures", "100", steps=100_000, pause=0.02,
                limit=280.0)
    times = []
    since = 0.0
    for kill in range(20):
        job.steps_of(size=3, since=since)
        since = job.kill_rank(kill % 3)
        times.append(job.steps_of(size=2, since=since)["time"] - since)
        assert times[-1] < GO_ON_S_MAX, (kill, times)
    lines = job.lines()
    check_resets(lines)
    check_training(lines)
    print(f"kill to next step: median {statistics.median(times):.3f} s, {min(times):.3f} to "
          f"{max(times):.3f} s of {len(times)}")
