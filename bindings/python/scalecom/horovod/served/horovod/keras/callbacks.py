"""Served by scalecom."""

from horovod.keras import _has_legacy

if _has_legacy:
    from scalecom.tensorflow.keras.callbacks import *  # noqa: F401, F403
else:
    from scalecom.keras.callbacks import *  # noqa: F401, F403
