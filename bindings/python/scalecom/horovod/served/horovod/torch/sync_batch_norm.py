"""Served by scalecom."""

from horovod.torch import SyncBatchNorm

__all__ = ["SyncBatchNorm"]
