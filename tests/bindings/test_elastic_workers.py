"""Elastic jobs of scripts in which each worker does something else."""

import sys

import pytest
from jobs import is_alive, rank_environment, run_limited
from test_elastic import LIMIT_S


def run_script(folder, options, code):
    """(exit code, output) of an elastic job of `code`, which finds `number`, its worker's, `there`,
    `wait(condition)`, and tell(name, pid), of which has_ended(name) knows."""
    path = folder / "script.py"
    path.write_text(f"""import os, pathlib, subprocess, sys, time
import pytest, torch
import scalecom.torch as hvd
from scalecom import worker
there = pathlib.Path({str(folder)!r})
number = int(os.environ["SCALECOM_ELASTIC_WORKER"])

def wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

def tell(name, pid):
    part = there / f"part{{number}}"
    part.write_text(str(pid))
    part.rename(there / name)

def has_ended(name):
    try:
        os.kill(int((there / name).read_text()), 0)
    except FileNotFoundError:
        return False  # It has not begun.
    except ProcessLookupError:
        return True

{code}""")
    return run_limited([sys.executable, "-m", "scalecom.run", "--elastic", *options, sys.executable,
                        path], LIMIT_S, env=rank_environment())


@pytest.mark.parametrize("newcomer", ["waits", "fails"])
def test_a_newcomer_that_is_not_needed_any_more_does_no_harm(tmp_path, newcomer):
    """Worker 3 is lost, and its replacement has come when worker 1 ends; worker 2 works on."""
    status, output = run_script(tmp_path, ("-np", "3", "--min-np", "2"), f"""
if number == 4:
    tell("newcomer", os.getpid())
    if {newcomer!r} == "fails":
        wait(lambda: has_ended("first"))
        sys.exit(5)
hvd.init()
if number == 3:
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tell("child", child.pid)
    os._exit(1)
if number == 1:
    tell("first", os.getpid())
    if {newcomer!r} == "waits":
        # What is for the worker goes neither to a forked process nor to another one with its variables.
        if (child := os.fork()) == 0:
            pytest.raises(ValueError, worker.find_driver().has_update)
            pytest.raises(ValueError, worker.Driver(os.environ["SCALECOM_ELASTIC_ADDRESS"],
                                                    os.environ["SCALECOM_ELASTIC_SECRET"], number).meet)
            os._exit(hvd.local_rank() is None)
        assert os.waitpid(child, 0)[1] == 0
        wait(worker.find_driver().has_update)
    else:
        wait((there / "newcomer").exists)
if number == 2:
    wait((there / "newcomer").exists)
    wait(lambda: has_ended("newcomer"))
    (there / "checkpoint").touch()
""")
    assert status == 0 and (tmp_path / "checkpoint").exists(), output
    if newcomer == "fails":
        assert "with exit code 5; the job is over and does without it" in output
    assert not is_alive(int((tmp_path / "child").read_text()), within_s=5.0)


def test_a_newcomer_does_not_wait_for_ever_for_a_commit(tmp_path):
    """Worker 3 takes the place of worker 2, and worker 1 commits nothing until it has gone."""
    status, output = run_script(tmp_path, ("-np", "2", "--min-np", "1", "--elastic-timeout", "15"), """
if number == 3:
    tell("newcomer", os.getpid())
hvd.init()
if number == 2:
    os._exit(1)
try:
    hvd.allreduce(torch.ones(1), name="lost")
except hvd.HorovodInternalError:
    hvd.shutdown()
    hvd.init()
wait((there / "newcomer").exists)
wait(lambda: has_ended("newcomer"))
""")
    assert status == 0 and "for 15 s no rank has come to its next commit()" in output, output


def test_the_job_does_not_wait_for_one_that_still_starts(tmp_path):
    status, output = run_script(tmp_path, ("-np", "2", "--min-np", "1"), """
if number == 3:
    tell("newcomer", os.getpid())
    time.sleep(1000)
hvd.init()
if number == 2:
    os._exit(1)
wait((there / "newcomer").exists)
""")
    assert status == 0, output
    assert not is_alive(int((tmp_path / "newcomer").read_text()), within_s=5.0)


def test_training_does_not_begin_anew_where_the_state_is_lost(tmp_path):
    """Worker 2 is lost, and worker 1 in the midst of giving worker 3 the state."""
    status, output = run_script(tmp_path, ("-np", "2", "--min-np", "1"), """
class State(hvd.elastic.TorchState):
    def sync(self):
        if number == 1 and self.step > 0 and hvd.size() == 2:
            os._exit(1)
        super().sync()

@hvd.elastic.run
def train(state):
    while state.step < 5 or number == 1:
        if number == 2 and state.step == 1:
            os._exit(1)
        state.step += 1
        state.commit()
        time.sleep(0.02)

hvd.init()
train(State(step=0))
(there / "trained").touch()
""")
    assert status == 1 and "all ranks that had the state are lost" in output, output
    assert not (tmp_path / "trained").exists()


def test_a_rank_that_is_lost_during_a_reset_leaves_the_others(tmp_path):
    """Worker 3 is lost at work, worker 2 in the reset that follows, in which ranks reduce."""
    status, output = run_script(tmp_path, ("-np", "3", "--min-np", "1", "--slot-failures", "1"), """
def reset():
    if number == 2:
        os._exit(1)
    hvd.allreduce(torch.ones(1), name="reset")

@hvd.elastic.run
def train(state):
    while state.step < 5 or hvd.size() > 1:
        if number == 3 and state.step == 1:
            os._exit(1)
        state.step += 1
        state.commit()
        time.sleep(0.02)

hvd.init()
state = hvd.elastic.TorchState(step=0)
state.register_reset_callbacks([reset])
train(state)
""")
    assert status == 0 and output.count("the others go on") == 2, output


def test_process_sets_are_added_after_init(tmp_path):
    status, output = run_script(tmp_path, ("-np", "1"),
                                "hvd.init(process_sets=[hvd.ProcessSet([0])])")
    assert status == 1 and "call add_process_set() after init(), and again in" in output, output
