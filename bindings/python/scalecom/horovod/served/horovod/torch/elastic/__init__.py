"""Served by scalecom."""

from scalecom.torch.elastic import *  # noqa: F401, F403

from horovod.torch.elastic import sampler, state  # noqa: E402, F401
