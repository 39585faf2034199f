"""Ranks that are out of data while others go on, on one process and on 1 to 3 ranks under mpirun."""

import pytest
from programs.claims import names
from test_ends import RECOVERY


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.join"))
def test_join(claims, ranks, claim):
    claims.check(ranks, "programs.join", claim)


@pytest.mark.parametrize("victim", [1, 2])
def test_a_rank_is_killed_while_others_have_joined(launch_unchecked, victim):
    """The victim is one that has joined, or the one that goes on."""
    outcome = launch_unchecked(3, "programs.ends:lose_a_rank_while_others_have_joined",
                               arguments={"victim": victim}, options=RECOVERY)
    assert set(outcome.values) == {0, 1, 2} - {victim}, (outcome.errors, outcome.output)
    for value in outcome.values.values():
        assert f"rank {victim}" in value["messages"][0]
        assert value["shutdown_seconds"] < 5.0
