"""torch.distributed's backend "scalecom" under torchrun, where it is refused, and what a rank's death is to it."""

import sys

from conftest import RECOVERY
from jobs import HERE, Outcome, environment, run_limited


def test_torchrun_alone_starts_a_group(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(HERE / "run_program.py"), "programs.process_groups:sum_of_ranks", str(tmp_path),
               "{}"]
    status, output = run_limited(command, 120, env=environment(), cwd=HERE)
    assert Outcome(tmp_path, 2, status, output).check() == [[0 + 1, False]] * 2
    assert status == 0, output


def test_ranks_that_are_not_the_jobs_are_refused(launch):
    for message in launch(2, "programs.process_groups:take_each_others_rank"):
        assert "says rank" in message and "scalecom://" in message


def test_four_ranks_have_a_mesh_and_messages_and_are_told_of_the_one_that_dies(launch_unchecked):
    outcome = launch_unchecked(
        4, "programs.process_groups:meshes_and_messages_of_four_ranks_and_one_that_dies",
        options=RECOVERY)
    assert set(outcome.values) == {0, 1, 2}, (outcome.errors, outcome.output)
    for message in outcome.values.values():
        assert message.startswith("recv from rank 3 with tag 0: rank 3 is lost"), message
