"""Served by scalecom."""

from scalecom.torch.elastic import *  # noqa: F401, F403
