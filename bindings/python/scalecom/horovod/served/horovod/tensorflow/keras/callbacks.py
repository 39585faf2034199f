"""Served by scalecom."""

from scalecom.tensorflow.keras.callbacks import *  # noqa: F401, F403
