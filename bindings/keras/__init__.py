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

from scalecom import common as _common
from scalecom.arrays import allgather_object, barrier, broadcast_object
from scalecom.common import *  # noqa: F401, F403
from scalecom.keras import callbacks, elastic
from scalecom.keras.backend import adapter as _adapter
from scalecom.keras.backend import join
from scalecom.keras.functions import (allgather, allreduce, broadcast, broadcast_global_variables,
                                      load_model, load_residuals, reducescatter)
from scalecom.keras.optimizer import DistributedOptimizer, PartialDistributedOptimizer

Compression = _adapter.Compression

__all__ = [
    "Compression", "DistributedOptimizer", "PartialDistributedOptimizer", "allgather", "allgather_object",
    "allreduce", "barrier", "broadcast", "broadcast_global_variables", "broadcast_object", "callbacks",
    "elastic", "join", "load_model", "load_residuals", "reducescatter",
]
__all__ += _common.__all__
