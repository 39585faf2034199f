"""All-reduces of many tensors in one call: one submit, one handle, all or none.

The member at place i of a group is the tensor `name`.i: it is negotiated, fused and compressed as if
it had been given to allreduce() under that name. A handle's result is the list of the members'
results. It completes when all members have; HorovodInternalError is that of the first that failed.
"""

import torch

from scalecom.torch import submit
from scalecom.torch.compression import Compression
from scalecom.torch.mpi_ops import (Average, Sum, check_process_set, choose_op, compress,
                                    options_of, register, synchronize)


def _checked_list(tensors):
    if isinstance(tensors, torch.Tensor):
        raise ValueError("tensors is a torch.Tensor; a list of tensors is needed: give [tensor], or "
                         "call allreduce")
    try:
        tensors = list(tensors)
    except TypeError:
        raise ValueError(f"tensors is {tensors!r}; a list of tensors is needed") from None
    if not all(issubclass(kind, torch.Tensor) for kind in set(map(type, tensors))):
        for tensor in tensors:
            submit.checked(tensor)
    return tensors


def _start(tensors, in_place, name, op, prescale_factor, postscale_factor, compression, priority):
    options = None
    if compression is not Compression.none:
        options = options_of(compression, name, "a group needs a name: the residuals are")
    if compression.compress is not Compression.none.compress:
        return _start_converted(tensors, in_place, name, op, prescale_factor, postscale_factor,
                                compression, options, priority)
    reduced = tensors if in_place else list(map(torch.empty_like, tensors))
    ticket = submit.all_reduce_group(tensors, reduced, name, op, prescale_factor, postscale_factor,
                                     options, priority)
    return register(ticket, reduced)


def _start_converted(tensors, in_place, name, op, prescale_factor, postscale_factor, compression,
                     options, priority):
    parts = [compress(tensor, in_place, compression) for tensor in tensors]
    wires, reduced, finishes = ([part[place] for part in parts] for place in range(3))
    ticket = submit.all_reduce_group(wires, reduced, name, op, prescale_factor, postscale_factor,
                                     options, priority)
    return register(ticket, None, lambda _: [finish() for finish in finishes])


def grouped_allreduce_async(tensors, average=None, name=None, op=None, prescale_factor=1.0,
                            postscale_factor=1.0, process_set=None, *,
                            compression=Compression.none, priority=0):
    """Starts a reduction of each of `tensors` over all ranks; the results are new tensors."""
    check_process_set(process_set)
    return _start(_checked_list(tensors), False, name, choose_op(average, op), prescale_factor,
                  postscale_factor, compression, priority)


def grouped_allreduce_async_(tensors, average=None, name=None, op=None, prescale_factor=1.0,
                             postscale_factor=1.0, process_set=None, *,
                             compression=Compression.none, priority=0):
    """As grouped_allreduce_async, in place."""
    check_process_set(process_set)
    return _start(_checked_list(tensors), True, name, choose_op(average, op), prescale_factor,
                  postscale_factor, compression, priority)


class _GroupedAllreduce(torch.autograd.Function):
    """The gradients of sums or averages are the same reductions of the gradients, as one group."""

    @staticmethod
    def forward(ctx, name, op, prescale_factor, postscale_factor, compression, priority, *tensors):
        ctx.arguments = (op, prescale_factor, postscale_factor, priority)
        return tuple(synchronize(_start(list(tensors), False, name, op, prescale_factor,
                                        postscale_factor, compression, priority)))

    @staticmethod
    def backward(ctx, *gradients):
        op, prescale_factor, postscale_factor, priority = ctx.arguments
        if op not in (Average, Sum):
            raise NotImplementedError("an allreduce is differentiable for Average and Sum only")
        is_needed = ctx.needs_input_grad[6:]
        reduced = iter(grouped_allreduce(
            [gradient.contiguous() for gradient, needed in zip(gradients, is_needed) if needed],
            op=op, prescale_factor=prescale_factor, postscale_factor=postscale_factor,
            priority=priority))
        return (None,) * 6 + tuple(next(reduced) if needed else None for needed in is_needed)


def grouped_allreduce(tensors, average=None, name=None, compression=Compression.none, op=None,
                      prescale_factor=1.0, postscale_factor=1.0, process_set=None, *, priority=0):
    """The reductions of `tensors` over all ranks, as a list of new tensors. Differentiable.

    The arguments are those of allreduce and hold for every tensor; shapes and dtypes may differ.
    """
    check_process_set(process_set)
    op = choose_op(average, op)
    tensors = _checked_list(tensors)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return list(_GroupedAllreduce.apply(name, op, prescale_factor, postscale_factor,
                                            compression, priority, *tensors))
    return synchronize(_start(tensors, False, name, op, prescale_factor, postscale_factor,
                              compression, priority))


def grouped_allreduce_(tensors, average=None, name=None, op=None, prescale_factor=1.0,
                       postscale_factor=1.0, process_set=None, *, compression=Compression.none,
                       priority=0):
    """As grouped_allreduce, in place."""
    return synchronize(grouped_allreduce_async_(tensors, average, name, op, prescale_factor,
                                                postscale_factor, process_set,
                                                compression=compression, priority=priority))
