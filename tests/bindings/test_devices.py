"""The claims about devices, on the CPU; tools/test-gpu has them and the others on a GPU."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("module, claim", [
    (module, claim) for module in ("programs.devices", "programs.device_training")
    for claim in names(module)])
def test_devices(claims, ranks, module, claim):
    claims.check(ranks, module, claim)
