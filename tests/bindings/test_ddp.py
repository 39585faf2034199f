"""ddp_hook in torch's DistributedDataParallel, on one process and under mpirun; register_fsdp_hook in its
fully_shard."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("claim", names("programs.ddp"))
def test_ddp(claims, ranks, claim):
    claims.check(ranks, "programs.ddp", claim)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("claim", names("programs.fsdp"))
def test_fsdp(claims, ranks, claim):
    claims.check(ranks, "programs.fsdp", claim)
