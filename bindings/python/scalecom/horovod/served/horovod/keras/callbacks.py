"""Served by scalecom."""

from horovod.keras import _is_on_tensorflow

if _is_on_tensorflow:
    from scalecom.tensorflow.keras.callbacks import *  # noqa: F401, F403
else:
    from scalecom.keras.callbacks import *  # noqa: F401, F403
