"""ddp_hook in torch's DistributedDataParallel, on one process and under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.ddp"))
def test_ddp(claims, ranks, claim):
    claims.check(ranks, "programs.ddp", claim)
