"""The global process set, and what init() takes, on one process and on 1 to 3 ranks."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.process_sets"))
def test_process_sets(claims, ranks, claim):
    claims.check(ranks, "programs.process_sets", claim)


def test_init_takes_communicators_and_lists_of_ranks(launch):
    pytest.importorskip("mpi4py")
    launch(2, "programs.communicators:init_by_communicators")


def test_each_part_of_a_split_communicator_is_a_set(launch):
    pytest.importorskip("mpi4py")
    launch(3, "programs.communicators:init_by_parts_of_a_communicator")
