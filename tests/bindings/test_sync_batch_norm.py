"""SyncBatchNorm, on one process and on 1 to 3 ranks under mpirun."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.sync_batch_norm"))
def test_sync_batch_norm(claims, ranks, claim):
    claims.check(ranks, "programs.sync_batch_norm", claim)
