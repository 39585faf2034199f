"""Served by scalecom."""

from scalecom.tensorflow import SyncBatchNormalization

__all__ = ["SyncBatchNormalization"]
