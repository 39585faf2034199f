"""scalecom.torch beside what else is installed: an older torch, no numpy."""

import sys

from jobs import rank_environment, run_limited


def run(script):
    return run_limited([sys.executable, "-c", script], 60, env=rank_environment())


def test_a_torch_whose_ddp_would_hang_is_refused_as_a_process_group():
    status, output = run("""
import torch, torch.distributed as dist
from torch.torch_version import TorchVersion
import scalecom.torch
torch.__version__ = TorchVersion("2.6.0+cpu")
dist.init_process_group("scalecom", store=dist.HashStore(), rank=0, world_size=1)
""")
    assert status != 0 and "NotImplementedError: torch 2.6.0+cpu is here" in output, output
    assert "needs 2.7 or later: update torch" in output, output


def test_objects_travel_without_numpy():
    status, output = run("""
import sys
sys.modules["numpy"] = None
import scalecom.torch as hvd
hvd.init()
assert hvd.allgather_object({"a": 1}) == [{"a": 1}]
""")
    assert status == 0, output


def test_an_untested_torch_is_warned_of():
    status, output = run("""
import torch
torch.__version__ = "2.0.1"
import scalecom.torch
""")
    assert status == 0 and "PyTorch 2.0.1 is here; scalecom.torch was tested with" in output, output
