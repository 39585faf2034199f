"""Served by scalecom."""

from scalecom.tensorflow.keras.elastic import *  # noqa: F401, F403
