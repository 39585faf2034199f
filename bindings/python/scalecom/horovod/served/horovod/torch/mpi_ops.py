"""Served by scalecom: the names of horovod.torch."""

from horovod.torch import *  # noqa: F401, F403
