"""scalecom for PyTorch, with Horovod's interface: ``import scalecom.torch as hvd``."""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError("scalecom.torch needs PyTorch, which is not installed: "
                      "pip install torch") from error

from scalecom.basics import (ccl_built, cross_rank, cross_size, cuda_built, ddl_built, gloo_built,
                             gloo_enabled, info, init, is_homogeneous, is_initialized, local_rank,
                             local_size, mpi_built, mpi_enabled, mpi_threads_supported, nccl_built,
                             rank, rocm_built, shutdown, size, start_timeline, stats,
                             stop_timeline)
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)
from scalecom.process_sets import (ProcessSet, add_process_set, global_process_set,
                                   remove_process_set)
from scalecom.torch import elastic
from scalecom.torch.compression import Compression
from scalecom.torch.ddp import DDPState, ddp_hook
from scalecom.torch.fsdp import register_fsdp_hook
from scalecom.torch.functions import (allgather_object, broadcast_object,
                                      broadcast_optimizer_state, broadcast_parameters)
from scalecom.torch.grouped_ops import (grouped_allgather, grouped_allgather_async,
                                        grouped_allreduce, grouped_allreduce_,
                                        grouped_allreduce_async, grouped_allreduce_async_,
                                        grouped_reducescatter, grouped_reducescatter_async)
from scalecom.torch.mpi_ops import (Adasum, Average, Max, Min, Product, Sum, allgather,
                                    allgather_async, allreduce, allreduce_, allreduce_async,
                                    allreduce_async_, alltoall, alltoall_async, barrier, broadcast,
                                    broadcast_, broadcast_async, broadcast_async_, join,
                                    poll, reducescatter, reducescatter_async, synchronize)
from scalecom.torch.optimizer import DistributedOptimizer
from scalecom.torch.plan import compression_plan
from scalecom.torch.policy import budget_rates, flops_per_gradient, flops_rates
from scalecom.torch.sparse_ops import sparse_allreduce_async
from scalecom.torch.state import (compression_betas, compression_state, compression_stats,
                                  compression_steps, fold_compression_states,
                                  load_compression_state)
from scalecom.torch.sync_batch_norm import SyncBatchNorm
from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("torch", _torch.__version__)

if _torch.distributed.is_available():
    from scalecom.torch import distributed as distributed

__all__ = [
    "Adasum", "Average", "Compression", "DDPState", "DistributedOptimizer", "HorovodInternalError",
    "HorovodVersionMismatchError", "HostsUpdatedInterrupt", "Max", "Min", "ProcessSet", "Product",
    "Sum", "SyncBatchNorm", "add_process_set", "allgather", "allgather_async", "allgather_object",
    "allreduce", "allreduce_", "allreduce_async", "allreduce_async_", "alltoall", "alltoall_async",
    "barrier", "broadcast", "broadcast_", "broadcast_async", "broadcast_async_", "broadcast_object",
    "broadcast_optimizer_state", "broadcast_parameters", "budget_rates", "ccl_built",
    "compression_betas", "compression_plan", "compression_state", "compression_stats",
    "compression_steps", "cross_rank", "cross_size", "cuda_built", "ddl_built", "ddp_hook",
    "elastic", "flops_per_gradient", "flops_rates", "fold_compression_states", "global_process_set",
    "gloo_built", "gloo_enabled", "grouped_allgather", "grouped_allgather_async",
    "grouped_allreduce", "grouped_allreduce_", "grouped_allreduce_async",
    "grouped_allreduce_async_", "grouped_reducescatter", "grouped_reducescatter_async", "info",
    "init", "is_homogeneous", "is_initialized", "join", "load_compression_state", "local_rank",
    "local_size", "mpi_built", "mpi_enabled", "mpi_threads_supported", "nccl_built", "poll", "rank",
    "reducescatter", "reducescatter_async", "register_fsdp_hook", "remove_process_set", "rocm_built",
    "shutdown", "size", "sparse_allreduce_async", "start_timeline", "stats", "stop_timeline",
    "synchronize",
]
