"""Groups that are not submitted, or not on all ranks."""

import pytest


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_group_larger_than_the_queue_is_refused_whole(launch, ranks):
    launch(ranks, "programs.grouped_ends:fill_the_queue", env={"SCALECOM_QUEUE_CAPACITY": "8"})


def test_a_group_that_some_ranks_never_submit_ends_with_the_session(launch):
    launch(2, "programs.grouped_ends:leave_before_the_others_submit")
