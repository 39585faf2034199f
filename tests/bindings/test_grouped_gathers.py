"""Grouped all-gathers and reduce-scatters, on one process and on 1 to 3 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.grouped_gathers"))
def test_grouped_gathers(claims, ranks, claim):
    claims.check(ranks, "programs.grouped_gathers", claim)
