"""Served by scalecom."""

from scalecom.horovod.missing import missing
from scalecom.torch import DistributedOptimizer

# Programs import them to say of what type an optimizer is. As in Horovod, none is an instance of them.
_DistributedOptimizer, _DistributedAdasumOptimizer = (
    missing(f"horovod.torch.optimizer.{name}", "call hvd.DistributedOptimizer")
    for name in ("_DistributedOptimizer", "_DistributedAdasumOptimizer"))

__all__ = ["DistributedOptimizer"]
