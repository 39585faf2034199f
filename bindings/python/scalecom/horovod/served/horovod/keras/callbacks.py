"""Served by scalecom."""

from scalecom.keras.callbacks import *  # noqa: F401, F403
