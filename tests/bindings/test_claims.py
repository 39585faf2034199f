"""Claims about scalecom.torch, each in a job of some numbers of ranks; 0 is one process without mpirun."""

import pytest
from programs.claims import names

RANKS = {
    "programs.adasum": (0, 2, 3, 4),
    "programs.clt_k": (0, 1, 2, 3, 4),
    "programs.collectives": (0, 1, 2, 3, 4),
    "programs.ddp": (0, 1, 2, 3, 4),
    "programs.errors": (0, 2, 3, 4),
    "programs.fsdp": (2, 4),
    "programs.grouped": (0, 1, 2, 3),
    "programs.grouped_gathers": (0, 1, 2, 3),
    "programs.join": (0, 1, 2, 3),
    "programs.optimizer": (0, 1, 2, 3, 4, 8),
    "programs.optimizer_groups": (0, 1, 2, 3),
    "programs.optimizer_styles": (0, 1, 2, 3),
    "programs.parts": (0, 1, 2, 3, 4),
    "programs.policy": (0, 2),
    "programs.process_group": (0, 1, 2, 3),
    "programs.process_group_training": (0, 1, 2, 3),
    "programs.process_sets": (0, 1, 2, 3),
    "programs.schedulers": (0, 1, 2, 3),
    "programs.sparse": (0, 1, 2, 3),
    "programs.sync_batch_norm": (0, 1, 2, 3),
}


@pytest.mark.parametrize("module, ranks, claim", [
    (module, ranks, claim) for module in RANKS for ranks in RANKS[module] for claim in names(module)])
def test_claims(claims, module, ranks, claim):
    claims.check(ranks, module, claim)
