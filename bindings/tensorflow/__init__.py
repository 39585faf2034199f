"""scalecom for TensorFlow. ``import scalecom.tensorflow as hvd`` in the place of Horovod's."""

try:
    import tensorflow as _tf
except ImportError as error:
    raise ImportError("scalecom.tensorflow needs TensorFlow: pip install tensorflow, or "
                      "tensorflow-cpu") from error

from scalecom import common as _common
from scalecom.common import *  # noqa: F401, F403
from scalecom.tensorflow import elastic
from scalecom.tensorflow.checkpoint import SavedResiduals
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.functions import (BroadcastGlobalVariablesHook, allgather_object,
                                           broadcast_global_variables, broadcast_object,
                                           broadcast_object_fn, broadcast_variables)
from scalecom.tensorflow.gradient_tape import (DistributedGradientTape,
                                               PartialDistributedGradientTape)
from scalecom.tensorflow.mpi_ops import (allgather, allreduce, alltoall, barrier, broadcast, broadcast_,
                                         grouped_allgather, grouped_allreduce,
                                         grouped_reducescatter, join, local_rank_op, local_size_op,
                                         process_set_included_op, rank_op, reducescatter, size_op)
from scalecom.tensorflow.optimizer import DistributedOptimizer
from scalecom.tensorflow.sync_batch_norm import SyncBatchNormalization
from scalecom.versions import warn_of_version as _warn_of_version

_warn_of_version("tensorflow", _tf.__version__)

__all__ = [
    "BroadcastGlobalVariablesHook", "Compression", "DistributedGradientTape", "DistributedOptimizer",
    "PartialDistributedGradientTape", "SavedResiduals", "SyncBatchNormalization", "allgather",
    "allgather_object", "allreduce", "alltoall", "barrier", "broadcast", "broadcast_",
    "broadcast_global_variables", "broadcast_object", "broadcast_object_fn", "broadcast_variables", "elastic",
    "grouped_allgather", "grouped_allreduce", "grouped_reducescatter", "join", "local_rank_op", "local_size_op",
    "process_set_included_op", "rank_op", "reducescatter", "size_op",
]
__all__ += _common.__all__
