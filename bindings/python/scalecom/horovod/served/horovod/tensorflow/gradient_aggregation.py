"""Served by scalecom."""

from scalecom.horovod.missing import missing

LocalGradientAggregationHelper = missing(
    "horovod.tensorflow.gradient_aggregation.LocalGradientAggregationHelper",
    "give backward_passes_per_step to DistributedOptimizer")

__all__ = ["LocalGradientAggregationHelper"]
