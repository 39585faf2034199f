"""Served by scalecom."""

from scalecom.keras.elastic import *  # noqa: F401, F403
