"""What compilers and trainers do with DistributedOptimizer, on one process and on 1 to 3 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.optimizer_styles"))
def test_optimizer_styles(claims, ranks, claim):
    claims.check(ranks, "programs.optimizer_styles", claim)
