"""scalecom.keras by the name that Horovod's users know it, for Keras 3 on its TensorFlow back end."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(f"Keras's back end is {_keras.backend.backend()}; scalecom.tensorflow.keras needs "
                      "KERAS_BACKEND=tensorflow, and scalecom.keras serves the others")

from scalecom.keras import *  # noqa: E402, F401, F403
from scalecom.keras import __all__  # noqa: E402, F401
from scalecom.tensorflow.keras import callbacks, elastic  # noqa: E402, F401
