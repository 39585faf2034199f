"""The claims about devices, on the CPU; tools/test-gpu has them and the others on a GPU. And how CUDA
tensors are read, of which none is needed."""

import pytest
from programs.claims import names


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("module, claim", [
    (module, claim) for module in ("programs.devices", "programs.device_training")
    for claim in names(module)])
def test_devices(claims, ranks, module, claim):
    claims.check(ranks, module, claim)


@pytest.mark.parametrize("claim", names("programs.exchange"))
def test_cuda_tensors_are_read(claims, claim):
    claims.check(2, "programs.exchange", claim)
