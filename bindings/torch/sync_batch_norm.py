"""Batch normalization over the batches of all ranks."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from scalecom import basics
from scalecom._library import own_name
from scalecom.reductions import Sum
from scalecom.torch.eager import eager
from scalecom.torch.mpi_ops import allgather, allreduce


def _wide(values):
    """In the type that sums are made in."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _others(values):
    """All dimensions but that of the channels."""
    return [dimension for dimension in range(values.dim()) if dimension != 1]


def _statistics(values):
    """Mean and biased variance of each channel, and the number of values of a channel, over all
    ranks, in float64. They are put together from each rank's as by Chan, Golub and LeVeque (1979),
    which loses nothing where the mean is large beside the deviation."""
    channels, count = values.shape[1], values.numel() // max(values.shape[1], 1)
    if count == 0:
        variance = mean = values.new_zeros(channels, dtype=torch.float64)
    else:
        variance, mean = torch.var_mean(_wide(values), _others(values), correction=0)
    mine = torch.cat([mean.double(), variance.double(), mean.new_full((1,), count).double()])
    rows = allgather(mine.unsqueeze(0), name=own_name("SyncBatchNorm, forward"))
    means, variances, counts = rows.split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (means * counts).sum(dim=0) / total
    variance = ((variances + (means - mean).square()) * counts).sum(dim=0) / total
    return mean, variance, total


class _Normalize(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are functions of
    all ranks' x. `inverse` is 1 / sqrt(variance + eps). The gradients of weight and bias are this
    rank's parts, as those of all parameters are."""

    @staticmethod
    def forward(ctx, values, weight, bias, mean, inverse, total):
        wide = _wide(values)
        ctx.save_for_backward(values, weight, mean, inverse, total)
        result = _centered(wide, mean) * _by_channel(inverse, wide)
        if weight is not None:
            result = result * _by_channel(weight, wide) + _by_channel(bias, wide)
        return result.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        values, weight, mean, inverse, total = ctx.saved_tensors
        wide, centered = _wide(gradient), _centered(_wide(values), mean)
        sums = torch.stack([wide.sum(_others(wide)), (wide * centered).sum(_others(wide))]).double()
        from_values = from_weight = from_bias = None
        if ctx.needs_input_grad[0]:
            means = allreduce(sums, op=Sum, name=own_name("SyncBatchNorm, backward")) / total
            by_deviation = _by_channel(means[1] * inverse.square(), wide)
            from_values = wide - _by_channel(means[0], wide) - centered * by_deviation
            scale = inverse if weight is None else inverse * weight
            from_values = (from_values * _by_channel(scale, wide)).to(values.dtype)
        if ctx.needs_input_grad[1]:
            from_weight = (sums[1] * inverse).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            from_bias = sums[0].to(weight.dtype)
        return from_values, from_weight, from_bias, None, None, None


def _by_channel(vector, values):
    """A vector with an element for each channel, to be used with `values`."""
    return vector.to(values.dtype).view(1, -1, *[1] * (values.dim() - 2))


def _centered(wide, mean):
    return wide - _by_channel(mean, wide)


class SyncBatchNorm(_BatchNorm):
    """Batch normalization whose mean and variance are those of the batches of all ranks together.

    Arguments and state are those of torch.nn.BatchNorm1d to 3d. Input: floating-point numbers of
    shape (batch, channels) or (batch, channels, ...), on a CPU or a CUDA device; the sizes of the
    batch and of what follows the channels may differ between ranks and may be 0. All ranks call it in
    training mode in the same order, forward and backward: an all-gather of 2 channels + 1 and an
    all-reduce of 2 channels numbers in float64. In eval mode it is plain batch normalization, and
    nothing is exchanged. ValueError for wrong input, and where all ranks together have one value per
    channel; HorovodInternalError where the ranks' numbers of channels differ.
    """

    def _check_input_dim(self, input):
        if input.dim() < 2:
            raise ValueError(f"the input has shape {tuple(input.shape)}; (batch, channels) or "
                             "(batch, channels, ...) is needed")
        if input.shape[1] != self.num_features:
            raise ValueError(f"the input of shape {tuple(input.shape)} has {input.shape[1]} "
                             f"channels; num_features is {self.num_features}")
        if not input.is_floating_point():
            raise ValueError(f"the input's dtype is {input.dtype}; floating-point numbers are "
                             "needed: call float() first")

    @eager
    def forward(self, input):
        self._check_input_dim(input)
        if not self.training or basics.size() == 1:
            return super().forward(input)
        with torch.no_grad():
            mean, variance, total = _statistics(input.detach())
            # A rank of more values knows the answer; asking makes the host wait for the device.
            is_few = input.numel() <= self.num_features
            if is_few and total == 1:
                raise ValueError("all ranks together have one value per channel; training needs "
                                 "more: use larger batches")
            if self.track_running_stats and not (is_few and total == 0):
                self._track(mean, variance * total / (total - 1))
        return _Normalize.apply(input, self.weight, self.bias, mean,
                                (variance + self.eps).rsqrt(), total)

    def _track(self, mean, variance):
        self.num_batches_tracked.add_(1)
        # Without momentum: the average over all batches so far.
        part = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, current in ((self.running_mean, mean), (self.running_var, variance)):
            running.copy_(running + part * (current - running))
