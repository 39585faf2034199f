"""Served by scalecom."""

from scalecom.tensorflow.elastic import *  # noqa: F401, F403
