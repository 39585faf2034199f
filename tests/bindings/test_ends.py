"""Ranks that die, leave or lag: an error that names them, in time, and nothing hangs."""

import re
import sys

import pytest
from conftest import RECOVERY, mpirun_command, run_limited
from jobs import Job, rank_environment

WITHOUT_A_GUARD = """\
import multiprocessing, sys
import torch
import scalecom.torch as hvd
hvd.init()
child = multiprocessing.get_context(sys.argv[1]).Process(target=int)
child.start()
child.join()
assert hvd.allreduce(torch.tensor(child.exitcode), op=hvd.Sum) == hvd.size()
"""


@pytest.mark.parametrize("ranks, victim", [(2, 1), (3, 0), (4, 2)])
def test_a_killed_rank_is_named_within_five_seconds(launch_unchecked, ranks, victim):
    outcome = launch_unchecked(ranks, "programs.ends:lose_a_rank", arguments={"victim": victim},
                               options=RECOVERY)
    survivors = set(range(ranks)) - {victim}
    assert set(outcome.values) == survivors, (outcome.errors, outcome.output)
    for value in outcome.values.values():
        for message in [*value["messages"], value["after"]]:
            assert f"rank {victim}" in message
        assert value["seconds"] < 5.0
        assert value["shutdown_seconds"] < 5.0


@pytest.mark.parametrize("victim", [1, 2])
def test_a_rank_is_killed_while_others_have_joined(launch_unchecked, victim):
    """The victim is one that has joined, or the one that goes on."""
    outcome = launch_unchecked(3, "programs.ends:lose_a_rank_while_others_have_joined",
                               arguments={"victim": victim}, options=RECOVERY)
    assert set(outcome.values) == {0, 1, 2} - {victim}, (outcome.errors, outcome.output)
    for value in outcome.values.values():
        assert f"rank {victim}" in value["messages"][0]
        assert value["shutdown_seconds"] < 5.0


@pytest.mark.parametrize("ranks", [2, 4])
def test_shutdown_fails_tensors_in_flight_on_every_rank(launch, ranks):
    for value in launch(ranks, "programs.ends:leave_with_tensors_in_flight"):
        assert all("rank 0 called shutdown()" in message for message in value["messages"])
        assert value["seconds"] < 5.0


def test_a_stall_is_reported_and_then_fails(launch_unchecked):
    settings = {"SCALECOM_STALL_CHECK_TIME_SECONDS": "0.3",
                "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "1.5"}
    outcome = launch_unchecked(3, "programs.ends:lag_for_ever", env=settings)
    values = outcome.check()
    for value in values:
        assert "has not submitted" in value["message"] or "have not submitted" in value["message"]
        assert value["failed_at"] - value["submitted_at"] < 10.0
    # The time runs from the first tensor that rank 0 hears of.
    assert min(value["failed_at"] for value in values) - min(value["submitted_at"] for value in values) > 1.0
    reports = [line for line in outcome.output.splitlines() if "warning" in line]
    assert any("allreduce.wanted" in line and "rank 2" in line for line in reports), reports


def test_a_rank_0_that_is_stopped_is_named_by_the_others(tmp_path):
    job = Job(tmp_path, 3, "programs.ends:wait_for_a_stopped_rank_0",
              env={"SCALECOM_COLLECTIVE_TIMEOUT": "4"})
    for rank in (1, 2):
        job.processes[rank].wait(60)
    job.processes[0].kill()
    outcome = job.outcome()
    assert set(outcome.values) == {1, 2}, (outcome.errors, outcome.output)
    for message in outcome.values.values():
        assert re.search("rank 0 hangs: for .* s rank [12] has heard nothing about 1 tensor", message)


def test_a_late_rank_is_reported_and_delays_only(launch_unchecked):
    outcome = launch_unchecked(2, "programs.ends:lag_for_a_while", arguments={"seconds": 1.0},
                               env={"SCALECOM_STALL_CHECK_TIME_SECONDS": "0.2"})
    assert outcome.check() == [2.0, 2.0]
    for reported in ("allreduce.late: rank 1 has not submitted it",
                     "broadcast.broadcast_object.object_size: rank 1 has not submitted it",
                     "barrier(): rank 1 has not come to it",
                     "question which ranks need the elastic state: rank 1 has not come to it"):
        assert reported in outcome.output, outcome.output


def test_stall_reports_can_be_switched_off(launch_unchecked):
    outcome = launch_unchecked(2, "programs.ends:lag_for_a_while", arguments={"seconds": 0.6},
                               env={"SCALECOM_STALL_CHECK_TIME_SECONDS": "0.1",
                                    "SCALECOM_STALL_CHECK_DISABLE": "1"})
    assert outcome.check() == [2.0, 2.0]
    assert "submitted" not in outcome.output


@pytest.mark.parametrize("ranks", [0, 1, 3])
def test_a_script_may_end_without_shutdown(launch_unchecked, ranks):
    outcome = launch_unchecked(ranks, "programs.ends:exit_without_shutdown")
    assert outcome.check() == [float(max(ranks, 1))] * max(ranks, 1)
    assert outcome.status == 0, outcome.output


def test_an_interrupt_ends_a_wait(launch):
    assert max(launch(2, "programs.ends:interrupt_a_wait")) < 2.0


def test_a_waiting_thread_sleeps_and_holds_no_lock(launch):
    value = launch(2, "programs.ends:wait_without_the_interpreter", arguments={"seconds": 1.0})[0]
    # The counter took a second of the processor, and comes to a hundredth of the time where the wait holds the lock.
    assert 0.5 < value["waited"] < 20.0
    assert value["waiter_cpu"] < 0.05 * value["waited"]


def test_calls_before_init_say_so(launch):
    for message in launch(0, "programs.ends:use_before_init")[0]:
        assert "init" in message


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_that_reads_the_script_again_is_no_rank(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_A_GUARD)
    status, output = run_limited([*mpirun_command(2), sys.executable, script, method], 60, env=rank_environment())
    assert status == 0, output
    assert output.count('it is no rank. Put what the program does under if __name__ == "__main__":') == 2, output
