"""Served by scalecom."""

from scalecom.torch import DistributedOptimizer

__all__ = ["DistributedOptimizer"]
