"""reducescatter and alltoall of scalecom.torch, on one process and on 1 to 4 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.parts"))
def test_parts(claims, ranks, claim):
    claims.check(ranks, "programs.parts", claim)
