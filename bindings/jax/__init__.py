"""scalecom for JAX: ``import scalecom.jax as hvd``."""

try:
    import jax as _jax
except ImportError as error:
    raise ImportError("scalecom.jax needs JAX, which is not installed: pip install jax") from error

from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("jax", _jax.__version__)

from scalecom import common as _common
from scalecom.arrays import allgather_object, broadcast_object
from scalecom.common import *  # noqa: F401, F403
from scalecom.jax.collectives import (allgather, allreduce,
                                      alltoall, barrier, broadcast, broadcast_parameters,
                                      grouped_allgather, grouped_allreduce, grouped_reducescatter,
                                      reducescatter)
from scalecom.jax.compression import Compression
from scalecom.jax.optimizer import (DistributedOptimizer, distributed, fold_residuals,
                                    restore_residuals, state_with_residuals)
from scalecom.process_sets import join

__all__ = [
    "Compression", "DistributedOptimizer", "allgather", "allgather_object", "allreduce", "alltoall", "barrier",
    "broadcast", "broadcast_object", "broadcast_parameters", "distributed", "fold_residuals", "grouped_allgather",
    "grouped_allreduce", "grouped_reducescatter", "join", "reducescatter", "restore_residuals",
    "state_with_residuals",
]
__all__ += _common.__all__
