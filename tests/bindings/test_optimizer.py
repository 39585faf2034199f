"""DistributedOptimizer, on one process and on 1, 2, 3, 4 and 8 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("claim", names("programs.optimizer"))
def test_optimizer(claims, ranks, claim):
    claims.check(ranks, "programs.optimizer", claim)

