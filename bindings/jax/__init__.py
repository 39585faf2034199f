"""scalecom for JAX: ``import scalecom.jax as hvd``."""

try:
    import jax as _jax
except ImportError as error:
    raise ImportError("scalecom.jax needs JAX, which is not installed: pip install jax") from error

from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("jax", _jax.__version__)

from scalecom.arrays import allgather_object, broadcast_object
from scalecom.basics import (ccl_built, cross_rank, cross_size, cuda_built, ddl_built, gloo_built,
                             gloo_enabled, info, init, is_homogeneous, is_initialized, local_rank,
                             local_size, mpi_built, mpi_enabled, mpi_threads_supported, nccl_built,
                             rank, rocm_built, shutdown, size, start_timeline, stats,
                             stop_timeline)
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)
from scalecom.jax.collectives import (Adasum, Average, Max, Min, Product, Sum, allgather, allreduce,
                                      alltoall, barrier, broadcast, broadcast_parameters,
                                      grouped_allgather, grouped_allreduce, grouped_reducescatter,
                                      reducescatter)
from scalecom.jax.compression import Compression
from scalecom.jax.optimizer import (DistributedOptimizer, distributed, restore_residuals,
                                    state_with_residuals)
from scalecom.process_sets import (ProcessSet, add_process_set, global_process_set, join,
                                   remove_process_set)
from scalecom.residuals import compression_stats

__all__ = [
    "Adasum", "Average", "Compression", "DistributedOptimizer", "HorovodInternalError",
    "HorovodVersionMismatchError", "HostsUpdatedInterrupt", "Max", "Min", "ProcessSet", "Product",
    "Sum", "add_process_set", "allgather", "allgather_object", "allreduce", "alltoall", "barrier",
    "broadcast", "broadcast_object", "broadcast_parameters", "ccl_built", "compression_stats",
    "cross_rank", "cross_size", "cuda_built", "ddl_built", "distributed", "global_process_set", "gloo_built",
    "gloo_enabled", "grouped_allgather", "grouped_allreduce", "grouped_reducescatter", "info",
    "init", "is_homogeneous", "is_initialized", "join", "local_rank", "local_size", "mpi_built",
    "mpi_enabled", "mpi_threads_supported", "nccl_built", "rank", "reducescatter",
    "remove_process_set", "restore_residuals", "rocm_built", "shutdown", "size", "start_timeline",
    "state_with_residuals", "stats", "stop_timeline",
]
