"""scalecom for PyTorch, with Horovod's interface: ``import scalecom.torch as hvd``."""

import types as _types

try:
    import torch as _torch
except ImportError as error:
    raise ImportError("scalecom.torch needs PyTorch, which is not installed: "
                      "pip install torch") from error

from scalecom import common as _common
from scalecom.common import *  # noqa: F401, F403
from scalecom.residuals import compression_betas, compression_steps
from scalecom.torch import elastic
from scalecom.torch.compression import Compression
from scalecom.torch.ddp import DDPState, ddp_hook
from scalecom.torch.eager import eager as _eager
from scalecom.torch.fsdp import register_fsdp_hook
from scalecom.torch.functions import (allgather_object, broadcast_object,
                                      broadcast_optimizer_state, broadcast_parameters)
from scalecom.torch.grouped_ops import (grouped_allgather, grouped_allgather_async,
                                        grouped_allreduce, grouped_allreduce_,
                                        grouped_allreduce_async, grouped_allreduce_async_,
                                        grouped_reducescatter, grouped_reducescatter_async)
from scalecom.torch.mpi_ops import (allgather, allgather_async, allreduce, allreduce_, allreduce_async,
                                    allreduce_async_, alltoall, alltoall_async, barrier, broadcast,
                                    broadcast_, broadcast_async, broadcast_async_, join, poll,
                                    reducescatter, reducescatter_async, synchronize)
from scalecom.torch.optimizer import DistributedOptimizer
from scalecom.torch.plan import compression_plan
from scalecom.torch.policy import budget_rates, flops_per_gradient, flops_rates
from scalecom.torch.residuals import (compression_state, fold_compression_states,
                                      load_compression_state)
from scalecom.torch.sparse_ops import sparse_allreduce_async
from scalecom.torch.sync_batch_norm import SyncBatchNorm
from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("torch", _torch.__version__)

if _torch.distributed.is_available():
    from scalecom.torch import distributed as distributed

__all__ = [
    "Compression", "DDPState", "DistributedOptimizer", "SyncBatchNorm", "allgather", "allgather_async",
    "allgather_object", "allreduce", "allreduce_", "allreduce_async", "allreduce_async_", "alltoall",
    "alltoall_async", "barrier", "broadcast", "broadcast_", "broadcast_async", "broadcast_async_",
    "broadcast_object", "broadcast_optimizer_state", "broadcast_parameters", "budget_rates",
    "compression_betas", "compression_plan", "compression_state", "compression_steps", "ddp_hook", "elastic",
    "flops_per_gradient", "flops_rates", "fold_compression_states", "grouped_allgather",
    "grouped_allgather_async", "grouped_allreduce", "grouped_allreduce_", "grouped_allreduce_async",
    "grouped_allreduce_async_", "grouped_reducescatter", "grouped_reducescatter_async", "join",
    "load_compression_state", "poll", "reducescatter", "reducescatter_async", "register_fsdp_hook",
    "sparse_allreduce_async", "synchronize",
]
__all__ += _common.__all__

for _name in __all__:
    if isinstance(globals()[_name], _types.FunctionType):
        _eager(globals()[_name])
