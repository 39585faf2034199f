"""Served by scalecom."""

from scalecom.torch.elastic import TorchState

__all__ = ["TorchState"]
