"""Grouped all-reduces, and how tensors are read, on one process and on 1 to 3 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.grouped"))
def test_grouped(claims, ranks, claim):
    claims.check(ranks, "programs.grouped", claim)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_group_larger_than_the_queue_is_refused_whole(launch, ranks):
    launch(ranks, "programs.grouped_ends:fill_the_queue", env={"SCALECOM_QUEUE_CAPACITY": "8"})


def test_a_group_that_some_ranks_never_submit_ends_with_the_session(launch):
    launch(2, "programs.grouped_ends:leave_before_the_others_submit")
