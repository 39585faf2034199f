"""scalecom for TensorFlow. ``import scalecom.tensorflow as hvd`` in the place of Horovod's."""

try:
    import tensorflow as _tf
except ImportError as error:
    raise ImportError("scalecom.tensorflow needs TensorFlow: pip install tensorflow, or "
                      "tensorflow-cpu") from error

from scalecom.basics import (ccl_built, cross_rank, cross_size, cuda_built, ddl_built, gloo_built,
                             gloo_enabled, info, init, is_homogeneous, is_initialized, local_rank,
                             local_size, mpi_built, mpi_enabled, mpi_threads_supported, nccl_built,
                             rank, rocm_built, shutdown, size, start_timeline, stats, stop_timeline)
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)
from scalecom.process_sets import (ProcessSet, add_process_set, global_process_set,
                                   remove_process_set)
from scalecom.residuals import compression_stats
from scalecom.tensorflow import elastic
from scalecom.tensorflow.checkpoint import SavedResiduals
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.functions import (BroadcastGlobalVariablesHook, allgather_object,
                                           broadcast_global_variables, broadcast_object,
                                           broadcast_object_fn, broadcast_variables)
from scalecom.tensorflow.gradient_tape import (DistributedGradientTape,
                                               PartialDistributedGradientTape)
from scalecom.tensorflow.mpi_ops import (Adasum, Average, Max, Min, Product, Sum, allgather,
                                         allreduce, alltoall, barrier, broadcast, broadcast_,
                                         grouped_allgather, grouped_allreduce,
                                         grouped_reducescatter, join, local_rank_op, local_size_op,
                                         process_set_included_op, rank_op, reducescatter, size_op)
from scalecom.tensorflow.optimizer import DistributedOptimizer
from scalecom.tensorflow.sync_batch_norm import SyncBatchNormalization
from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("tensorflow", _tf.__version__)

__all__ = [
    "Adasum", "Average", "BroadcastGlobalVariablesHook", "Compression", "DistributedGradientTape", "DistributedOptimizer",
    "HorovodInternalError", "HorovodVersionMismatchError", "HostsUpdatedInterrupt", "Max", "Min",
    "PartialDistributedGradientTape", "ProcessSet", "Product", "SavedResiduals", "Sum", "SyncBatchNormalization",
    "add_process_set",
    "allgather", "allgather_object", "allreduce", "alltoall", "barrier", "broadcast", "broadcast_",
    "broadcast_global_variables", "broadcast_object", "broadcast_object_fn", "broadcast_variables", "ccl_built", "compression_stats", "cross_rank",
    "cross_size", "cuda_built", "ddl_built", "elastic", "global_process_set", "gloo_built", "gloo_enabled",
    "grouped_allgather", "grouped_allreduce", "grouped_reducescatter", "info", "init",
    "is_homogeneous", "is_initialized", "join", "local_rank", "local_rank_op", "local_size",
    "local_size_op", "mpi_built", "mpi_enabled", "mpi_threads_supported", "nccl_built",
    "process_set_included_op", "rank", "rank_op", "reducescatter", "remove_process_set",
    "rocm_built", "shutdown", "size", "size_op", "start_timeline", "stats", "stop_timeline",
]
