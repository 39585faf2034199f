"""scalecom.keras by the name that Horovod's users know it: for Keras 3 on its TensorFlow back end, and for the
legacy tf-keras where TF_USE_LEGACY_KERAS=1 is set."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(f"Keras's back end is {_keras.backend.backend()}; scalecom.tensorflow.keras needs "
                      "KERAS_BACKEND=tensorflow, and scalecom.keras serves the others")

from scalecom.keras import *  # noqa: E402, F401, F403
from scalecom.keras import __all__  # noqa: E402, F401
import scalecom.tensorflow.keras.callbacks as callbacks  # noqa: E402, F401 (not that of scalecom.keras)
import scalecom.tensorflow.keras.elastic as elastic  # noqa: E402, F401
from scalecom.tensorflow.keras import legacy  # noqa: E402

if legacy.IS_USED:
    from scalecom.tensorflow.keras.legacy import (DistributedOptimizer, PartialDistributedOptimizer,  # noqa: F401
                                                  load_model)
