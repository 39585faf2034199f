"""Served by scalecom: the names of horovod.tensorflow."""

from horovod.tensorflow import *  # noqa: F401, F403
