"""Communicators of mpi4py that init() takes."""

import pytest


def test_init_takes_communicators_and_lists_of_ranks(launch):
    pytest.importorskip("mpi4py")
    launch(2, "programs.communicators:init_by_communicators")


def test_each_part_of_a_split_communicator_is_a_set(launch):
    pytest.importorskip("mpi4py")
    launch(3, "programs.communicators:init_by_parts_of_a_communicator")
