"""Served by scalecom."""

from scalecom.torch.elastic import ElasticSampler

__all__ = ["ElasticSampler"]
