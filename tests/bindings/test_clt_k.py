"""ScaleCom through scalecom.torch against a serial float64 reference."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.clt_k"))
def test_clt_k(claims, ranks, claim):
    claims.check(ranks, "programs.clt_k", claim)
