"""Adasum and its optimizer, on one process and on 2 to 4 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.adasum"))
def test_adasum(claims, ranks, claim):
    claims.check(ranks, "programs.adasum", claim)
