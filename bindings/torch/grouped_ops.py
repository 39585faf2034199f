"""Collectives on many tensors in one call, with one handle.

The member at place i of a group is the tensor `name`.i: it is negotiated, fused and compressed as if
it had been given to allreduce(), allgather() or reducescatter() under that name. A handle's result is
the list of the members' results. It completes when all members have; HorovodInternalError is that of
the first that failed. A group is one submit, all or none: where a member's argument is wrong, its
name in flight or the queue full, no member is submitted.
"""

import torch

from scalecom import basics
from scalecom._library import Tickets, lib
from scalecom.compression import check_uniform, options_of
from scalecom.process_sets import current, used
from scalecom.reductions import Average, choose_op
from scalecom.torch import mpi_ops, submit
from scalecom.torch.compression import Compression
from scalecom.torch.mpi_ops import compress, register, synchronize


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


def _needs_gradient(tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _start(tensors, in_place, name, op, prescale_factor, postscale_factor, compression, priority):
    options = None
    if compression is not Compression.none:
        options = options_of(compression, name, "a group needs a name: the residuals are")
    reduction = submit.reduction_of(op, prescale_factor, postscale_factor, options, priority)
    compression = mpi_ops.place_for(op, tensors, compression)
    if compression.compress is not Compression.none.compress:
        parts = [compress(tensor, in_place, compression) for tensor in tensors]
        wires, reduced, finishes = ([part[place] for part in parts] for place in range(3))
        return register(submit.all_reduce_group(wires, reduced, name, reduction), None,
                        lambda _: [finish() for finish in finishes])
    reduced = tensors if in_place else list(map(submit.empty_like, tensors))
    return register(submit.all_reduce_group(tensors, reduced, name, reduction), reduced)


def grouped_allreduce_async(tensors, average=None, name=None, op=None, prescale_factor=1.0,
                            postscale_factor=1.0, process_set=None, *,
                            compression=Compression.none, priority=0):
    """Starts a reduction of each of `tensors` over all ranks; the results are new tensors."""
    with used(process_set):
        return _start(_checked_list(tensors), False, name, choose_op(average, op), prescale_factor,
                      postscale_factor, compression, priority)


def grouped_allreduce_async_(tensors, average=None, name=None, op=None, prescale_factor=1.0,
                             postscale_factor=1.0, process_set=None, *,
                             compression=Compression.none, priority=0):
    """As grouped_allreduce_async, in place."""
    with used(process_set):
        return _start(_checked_list(tensors), True, name, choose_op(average, op), prescale_factor,
                      postscale_factor, compression, priority)


class _GroupedAllreduce(torch.autograd.Function):
    """The gradients of sums, averages or Adasums are the same reductions of the gradients, as one group."""

    @staticmethod
    def forward(ctx, name, op, prescale_factor, postscale_factor, compression, priority, *tensors):
        ctx.process_set = current()
        ctx.arguments = (op, prescale_factor, postscale_factor, priority)
        return tuple(synchronize(_start(list(tensors), False, name, op, prescale_factor,
                                        postscale_factor, compression, priority)))

    @staticmethod
    def backward(ctx, *gradients):
        with used(ctx.process_set):
            op, prescale_factor, postscale_factor, priority = ctx.arguments
            mpi_ops.check_differentiable(op)
            is_needed = ctx.needs_input_grad[6:]
            reduced = iter(grouped_allreduce(
                [submit.contiguous(gradient) for gradient, needed in zip(gradients, is_needed) if needed],
                op=op, prescale_factor=prescale_factor, postscale_factor=postscale_factor,
                priority=priority))
            return (None,) * 6 + tuple(next(reduced) if needed else None for needed in is_needed)


def grouped_allreduce(tensors, average=None, name=None, compression=Compression.none, op=None,
                      prescale_factor=1.0, postscale_factor=1.0, process_set=None, *, priority=0):
    """The reductions of `tensors` over all ranks, as a list of new tensors. Differentiable.

    The arguments are those of allreduce and hold for every tensor; shapes and dtypes may differ.
    """
    with used(process_set):
        op = choose_op(average, op)
        tensors = _checked_list(tensors)
        if _needs_gradient(tensors):
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


def _register_each(tickets, finishes):
    return register(Tickets(tickets), None,
                    lambda _: [finish(ticket) for ticket, finish in zip(tickets, finishes)])


def _check_member(tensor, verb):
    submit.view(tensor)
    if tensor.dim() == 0:
        raise ValueError(f"a scalar cannot be {verb}; give it one dimension")


def grouped_allgather_async(tensors, name=None, process_set=None):
    """Starts an all-gather of each of `tensors`; see allgather."""
    with used(process_set):
        tensors = [tensor.detach() for tensor in _checked_list(tensors)]
        for tensor in tensors:
            _check_member(tensor, "gathered")
        tickets = submit.with_name("allgather", name, lambda full: submit.submit_each(
            lib.scalecom_all_gather_group, submit.member_names(full, len(tensors)), tensors))
        return _register_each(tickets, list(map(mpi_ops.copier, tensors)))


class _GroupedAllgather(torch.autograd.Function):
    """The gradients are this rank's parts of the averaged gradients."""

    @staticmethod
    def forward(ctx, name, *tensors):
        ctx.process_set = current()
        ctx.rows = [tensor.shape[0] for tensor in tensors]
        return tuple(synchronize(grouped_allgather_async(tensors, name)))

    @staticmethod
    def backward(ctx, *gradients):
        with used(ctx.process_set):
            is_needed = ctx.needs_input_grad[1:]
            reduced = iter(grouped_allreduce(
                [submit.contiguous(gradient) for gradient, needed in zip(gradients, is_needed) if needed],
                op=Average))
            rows = mpi_ops.allgather(torch.tensor([ctx.rows], device="cpu"))
            begins = rows[:basics.rank()].sum(dim=0).tolist()
            return None, *(next(reduced).narrow(0, begin, count) if needed else None
                           for needed, begin, count in zip(is_needed, begins, ctx.rows))


def grouped_allgather(tensors, name=None, process_set=None):
    """For each of `tensors` the ranks' tensors, concatenated along the first dimension, as a list.
    Differentiable."""
    with used(process_set):
        tensors = _checked_list(tensors)
        if _needs_gradient(tensors):
            return list(_GroupedAllgather.apply(name, *tensors))
        return synchronize(grouped_allgather_async(tensors, name))


def grouped_reducescatter_async(tensors, name=None, op=Average, process_set=None,
                                prescale_factor=1.0, postscale_factor=1.0, *,
                                compression=Compression.none):
    """Starts a reduce-scatter of each of `tensors`; see reducescatter."""
    with used(process_set):
        op = choose_op(None, op)
        check_uniform(compression)
        tensors = _checked_list(tensors)
        is_changed = op == Average or prescale_factor != 1.0 or postscale_factor != 1.0
        for tensor in tensors:
            _check_member(tensor, "scattered")
            if tensor.dtype == torch.bool and is_changed:
                raise ValueError("bool can be neither averaged nor scaled; use Sum, Max, Min or "
                                 "Product, or cast it")
        parts = [mpi_ops.scatter_wire(tensor, compression) for tensor in tensors]
        arguments = mpi_ops.scatter_arguments(op, prescale_factor, postscale_factor)
        tickets = submit.with_name("reducescatter", name, lambda full: submit.submit_each(
            lib.scalecom_reduce_scatter_group, submit.member_names(full, len(tensors)),
            [wire for wire, _ in parts], arguments))
        return _register_each(tickets, [finish for _, finish in parts])


class _GroupedReducescatter(torch.autograd.Function):
    """The gradients are those of each reducescatter."""

    @staticmethod
    def forward(ctx, name, op, prescale_factor, postscale_factor, compression, *tensors):
        ctx.process_set = current()
        ctx.arguments = (op, prescale_factor, postscale_factor)
        return tuple(synchronize(grouped_reducescatter_async(
            tensors, name, op, None, prescale_factor, postscale_factor, compression=compression)))

    @staticmethod
    def backward(ctx, *gradients):
        with used(ctx.process_set):
            factor = mpi_ops.reducescatter_gradient_factor(*ctx.arguments)
            is_needed = ctx.needs_input_grad[5:]
            gathered = iter(grouped_allgather(
                [submit.contiguous(gradient) * factor
                 for gradient, needed in zip(gradients, is_needed) if needed]))
            return (None,) * 5 + tuple(next(gathered) if needed else None for needed in is_needed)


def grouped_reducescatter(tensors, name=None, compression=Compression.none, op=Average,
                          process_set=None, prescale_factor=1.0, postscale_factor=1.0):
    """This rank's part of the reduction of each of `tensors`, as a list. Differentiable.

    The arguments are those of reducescatter and hold for every tensor; shapes and dtypes may differ.
    """
    with used(process_set):
        tensors = _checked_list(tensors)
        if _needs_gradient(tensors):
            return list(_GroupedReducescatter.apply(name, op, prescale_factor, postscale_factor,
                                                    compression, *tensors))
        return synchronize(grouped_reducescatter_async(tensors, name, op, None, prescale_factor,
                                                       postscale_factor, compression=compression))
