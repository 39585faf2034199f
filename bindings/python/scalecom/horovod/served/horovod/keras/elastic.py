"""Served by scalecom."""

from horovod.keras import _is_on_tensorflow

if _is_on_tensorflow:
    from scalecom.tensorflow.keras.elastic import *  # noqa: F401, F403
else:
    from scalecom.keras.elastic import *  # noqa: F401, F403
