"""The names that every adapter offers beside its own: each has them by ``from scalecom.common import *``."""

from scalecom.basics import (ccl_built, cross_rank, cross_size, cuda_built, ddl_built, gloo_built,
                             gloo_enabled, info, init, is_homogeneous, is_initialized, local_rank,
                             local_size, mpi_built, mpi_enabled, mpi_threads_supported, nccl_built,
                             rank, rocm_built, shutdown, size, start_timeline, stats, stop_timeline)
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)
from scalecom.process_sets import (ProcessSet, add_process_set, global_process_set,
                                   remove_process_set)
from scalecom.reductions import Adasum, Average, Max, Min, Product, Sum
from scalecom.residuals import compression_stats

__all__ = [
    "Adasum", "Average", "HorovodInternalError", "HorovodVersionMismatchError", "HostsUpdatedInterrupt", "Max",
    "Min", "ProcessSet", "Product", "Sum", "add_process_set", "ccl_built", "compression_stats", "cross_rank",
    "cross_size", "cuda_built", "ddl_built", "global_process_set", "gloo_built", "gloo_enabled", "info", "init",
    "is_homogeneous", "is_initialized", "local_rank", "local_size", "mpi_built", "mpi_enabled",
    "mpi_threads_supported", "nccl_built", "rank", "remove_process_set", "rocm_built", "shutdown", "size",
    "start_timeline", "stats", "stop_timeline",
]
