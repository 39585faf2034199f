"""scalecom for Keras 3 on the TensorFlow, JAX and torch back ends: ``import scalecom.keras as hvd``."""

try:
    import keras as _keras
except ImportError as error:
    if error.name == "keras":
        raise ImportError("scalecom.keras needs Keras 3, which is not installed: "
                          "pip install keras") from error
    raise ImportError(f"Keras cannot be imported: {error}. Install its back end, or set KERAS_BACKEND to "
                      "jax, tensorflow or torch") from error

from scalecom.versions import warn_of_version as _warn_of_version

if _keras.__version__.startswith("2."):
    raise ImportError(f"Keras {_keras.__version__} is here; scalecom.keras needs Keras 3: pip install keras")
_warn_of_version("keras", _keras.__version__)

from scalecom.arrays import allgather_object, barrier, broadcast_object
from scalecom.basics import (ccl_built, cross_rank, cross_size, cuda_built, ddl_built, gloo_built,
                             gloo_enabled, info, init, is_homogeneous, is_initialized, local_rank,
                             local_size, mpi_built, mpi_enabled, mpi_threads_supported, nccl_built,
                             rank, rocm_built, shutdown, size, start_timeline, stats,
                             stop_timeline)
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)
from scalecom.keras import callbacks, elastic
from scalecom.keras.backend import adapter as _adapter
from scalecom.keras.backend import join
from scalecom.keras.functions import (allgather, allreduce, broadcast, broadcast_global_variables,
                                      load_model, load_residuals, reducescatter)
from scalecom.keras.optimizer import DistributedOptimizer, PartialDistributedOptimizer
from scalecom.process_sets import ProcessSet, add_process_set, global_process_set, remove_process_set
from scalecom.reductions import Adasum, Average, Max, Min, Product, Sum
from scalecom.residuals import compression_stats

Compression = _adapter.Compression

__all__ = [
    "Adasum", "Average", "Compression", "DistributedOptimizer", "HorovodInternalError",
    "HorovodVersionMismatchError", "HostsUpdatedInterrupt", "Max", "Min", "PartialDistributedOptimizer",
    "ProcessSet", "Product", "Sum", "add_process_set", "allgather", "allgather_object", "allreduce", "barrier", "broadcast",
    "broadcast_global_variables", "broadcast_object", "callbacks", "ccl_built", "compression_stats", "cross_rank",
    "cross_size", "cuda_built", "ddl_built", "elastic", "global_process_set", "gloo_built", "gloo_enabled", "info", "init",
    "is_homogeneous", "is_initialized", "join", "load_model", "load_residuals", "local_rank", "local_size", "mpi_built",
    "mpi_enabled", "mpi_threads_supported", "nccl_built", "rank", "reducescatter", "remove_process_set", "rocm_built", "shutdown", "size",
    "start_timeline", "stats", "stop_timeline",
]
