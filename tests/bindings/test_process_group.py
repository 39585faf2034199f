"""torch.distributed's backend "scalecom", on one process, on 1 to 3 ranks under mpirun, and under
torchrun."""

import sys

import pytest
from jobs import HERE, Outcome, environment, run_limited
from programs.claims import names

MODULES = ("programs.process_group", "programs.process_group_training")


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("module, claim", [(module, claim) for module in MODULES
                                           for claim in names(module)])
def test_process_group(claims, ranks, module, claim):
    claims.check(ranks, module, claim)


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


def test_a_mesh_of_two_dimensions(launch):
    assert launch(4, "programs.process_groups:mesh_of_two_dimensions_shards_and_replicates") == [True] * 4
