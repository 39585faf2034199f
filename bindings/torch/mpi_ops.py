"""The collectives on torch tensors.

An asynchronous call returns a handle; synchronize(handle) sleeps until it completes and gives the
result. A name identifies a tensor across ranks and may be in flight once. Handles keep their
tensors alive. On CUDA tensors an operation begins in the order of the stream that is current at the
call, and synchronize() makes the stream that is current there wait for the result; the host waits
until all is enqueued, and poll() tells when that is. Wrong arguments raise ValueError at the call;
what goes wrong between ranks raises HorovodInternalError in synchronize(), on every rank.
process_set: the ranks that take part and whose number an average divides by; all by default. A root
is a rank of the job in each of them.
"""

import ctypes
import itertools
import operator

import torch

from scalecom import _library, basics, process_sets
from scalecom._library import lib
from scalecom.compression import check_uniform, options_of
from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import current, global_process_set, used
from scalecom.reductions import Adasum, Average, Sum, choose_op
from scalecom.torch import submit
from scalecom.torch.compression import Compression
from scalecom.torch.submit import as_number, checked, full_name, view

_handle_numbers = itertools.count(1)
_handles = {}

def register(ticket, result, finish=None):
    """A handle for the ticket. synchronize() returns `result`, or what finish(ticket) makes."""
    handle = next(_handle_numbers)
    _handles[handle] = ticket, result, finish
    return handle


class _ThroughHost:
    """A compression whose tensors travel from the host's memory."""

    def __init__(self, compression):
        self._compression = compression

    def compress(self, tensor):
        compressed, ctx = self._compression.compress(tensor)
        return compressed.cpu(), (ctx, tensor.device)

    def decompress(self, tensor, ctx):
        ctx, device = ctx
        return self._compression.decompress(tensor.to(device), ctx)


def place_for(op, tensors, compression):
    """The compression by which tensors get to where `op` combines them."""
    if op == Adasum and any(tensor.is_cuda for tensor in tensors):
        return _ThroughHost(compression)
    return compression


def _start_allreduce(tensor, in_place, name, op, prescale_factor, postscale_factor, compression,
                     priority):
    options = None
    if compression is not Compression.none:
        options = options_of(compression, name, "a tensor needs a name: its residual is")
    reduction = submit.reduction_of(op, prescale_factor, postscale_factor, options, priority)
    compression = place_for(op, [tensor], compression)
    if compression.compress is not Compression.none.compress:
        wire, reduced, finish = compress(tensor, in_place, compression)
        return register(submit.all_reduce(wire, reduced, name, reduction), None, lambda _: finish())
    reduced = tensor if in_place else submit.empty_like(tensor)
    return register(submit.all_reduce(tensor, reduced, name, reduction), reduced)


def compress(tensor, in_place, compression):
    """What travels for `tensor`: (wire, reduced, finish). `wire` is to be reduced into `reduced`;
    finish() then makes the result."""
    source = tensor.detach()
    wire, context = compression.compress(source)
    # What compress() made may be overwritten; the caller's tensor only in place.
    reduced = wire if in_place or wire is not source else submit.empty_like(source)

    def finish():
        result = compression.decompress(reduced, context)
        if not in_place:
            return result
        if result is not source:
            source.copy_(result)
        return tensor

    return wire, reduced, finish


def allreduce_async(tensor, average=None, name=None, op=None, prescale_factor=1.0,
                    postscale_factor=1.0, process_set=None, *, compression=Compression.none,
                    priority=0):
    """Starts a reduction of `tensor` over all ranks; the result is a new tensor.

    priority: a whole number of 32 bits, the same on every rank. Among the tensors that all ranks
    have submitted, those of higher priority go first.
    """
    with used(process_set):
        return _start_allreduce(checked(tensor), False, name, choose_op(average, op),
                                prescale_factor, postscale_factor, compression, priority)


def allreduce_async_(tensor, average=None, name=None, op=None, prescale_factor=1.0,
                     postscale_factor=1.0, process_set=None, *, compression=Compression.none,
                     priority=0):
    """As allreduce_async, in place."""
    with used(process_set):
        return _start_allreduce(checked(tensor), True, name, choose_op(average, op),
                                prescale_factor, postscale_factor, compression, priority)


def check_differentiable(op):
    if op not in (Average, Sum, Adasum):
        raise NotImplementedError("an allreduce is differentiable for Average, Sum and Adasum only")


class _Allreduce(torch.autograd.Function):
    """The gradient of a sum, an average or an Adasum is the same reduction of the gradients: of the
    last one that is Horovod's definition, not the derivative."""

    @staticmethod
    def forward(ctx, tensor, name, op, prescale_factor, postscale_factor, compression, priority):
        ctx.arguments = (op, prescale_factor, postscale_factor, priority)
        ctx.process_set = current()
        return synchronize(_start_allreduce(tensor, False, name, op, prescale_factor,
                                            postscale_factor, compression, priority))

    @staticmethod
    def backward(ctx, gradient):
        op, prescale_factor, postscale_factor, priority = ctx.arguments
        check_differentiable(op)
        reduced = allreduce(submit.contiguous(gradient), op=op, prescale_factor=prescale_factor,
                            postscale_factor=postscale_factor, process_set=ctx.process_set,
                            priority=priority)
        return reduced, None, None, None, None, None, None


def allreduce(tensor, average=None, name=None, compression=Compression.none, op=None,
              prescale_factor=1.0, postscale_factor=1.0, process_set=None, *, priority=0):
    """The reduction of `tensor` over all ranks, as a new tensor. Differentiable.

    tensor: contiguous, on the CPU or a CUDA device, of a shape and dtype that all ranks give: uint8, int8 to int64,
    float16, bfloat16, float32, float64 or bool (not averaged). op: Average (default; of integers what is behind the
    point is cut off), Sum, Adasum (arXiv 2006.02924; floating-point tensors, combined in the
    host's memory, to which CUDA tensors are copied at the call), Min, Max or Product. Each rank's
    values are multiplied by prescale_factor before, the result by postscale_factor. With
    Compression.scalecom(...) one call is one step of ScaleCom for the tensor of this name.
    average: Horovod's former word for it, True for Average and False for Sum. priority: see allreduce_async.
    ValueError for a wrong argument; HorovodInternalError on every rank where the ranks disagree or one is lost.
    """
    with used(process_set):
        op = choose_op(average, op)
        if checked(tensor).requires_grad and torch.is_grad_enabled():
            return _Allreduce.apply(tensor, name, op, prescale_factor, postscale_factor,
                                    compression, priority)
        return synchronize(_start_allreduce(tensor, False, name, op, prescale_factor,
                                            postscale_factor, compression, priority))


def allreduce_(tensor, average=None, name=None, op=None, prescale_factor=1.0, postscale_factor=1.0,
               process_set=None, *, compression=Compression.none, priority=0):
    """As allreduce, in place."""
    return synchronize(allreduce_async_(tensor, average, name, op, prescale_factor,
                                        postscale_factor, process_set, compression=compression,
                                        priority=priority))


def allgather_async(tensor, name=None, process_set=None):
    """Starts a concatenation of the ranks' tensors along the first dimension, which may differ."""
    with used(process_set):
        tensor = checked(tensor).detach()
        ticket = submit.submit_named(lib.scalecom_all_gather, "allgather", name, tensor)
        return register(ticket, None, copier(tensor))


def copier(tensor):
    """What makes a result like `tensor`, of rows of its own, from the ticket, which owns them."""
    def copy(done):
        result = torch.empty(done.output_shape(), dtype=tensor.dtype, device=tensor.device)
        done.copy_output(result.data_ptr(), submit.stream_of(result))
        return result

    return copy


class _Allgather(torch.autograd.Function):
    """The gradient is this rank's part of the averaged gradients."""

    @staticmethod
    def forward(ctx, tensor, name):
        ctx.process_set = current()
        ctx.rows = tensor.shape[0]
        return synchronize(allgather_async(tensor, name))

    @staticmethod
    def backward(ctx, gradient):
        with used(ctx.process_set):
            reduced = allreduce(submit.contiguous(gradient), op=Average)
            rows = allgather(torch.tensor([ctx.rows], device="cpu"))
            begin = int(rows[:basics.rank()].sum())
            return reduced.narrow(0, begin, ctx.rows), None


def allgather(tensor, name=None, process_set=None):
    """The ranks' tensors, concatenated along the first dimension, which alone may differ. Differentiable. dtypes
    and errors: as of allreduce; a tensor without a dimension is a ValueError."""
    with used(process_set):
        if checked(tensor).requires_grad and torch.is_grad_enabled():
            return _Allgather.apply(tensor, name)
        return synchronize(allgather_async(tensor, name))


def reducescatter_async(tensor, name=None, op=Average, process_set=None, prescale_factor=1.0,
                        postscale_factor=1.0, *, compression=Compression.none):
    """Starts a reduction whose result is cut between the ranks; see reducescatter."""
    with used(process_set):
        op = choose_op(None, op)
        check_uniform(compression)
        wire, finish = scatter_wire(checked(tensor), compression)
        ticket = submit.submit_named(lib.scalecom_reduce_scatter, "reducescatter", name, wire,
                                     *scatter_arguments(op, prescale_factor, postscale_factor))
        return register(ticket, None, finish)


def scatter_wire(tensor, compression):
    """What of a tensor is reduced, and what makes its result from the ticket."""
    wire, context = compression.compress(tensor.detach())
    copy = copier(wire)
    return wire, lambda done: compression.decompress(copy(done), context)


def scatter_arguments(op, prescale_factor, postscale_factor):
    """The C interface's, behind the tensors."""
    return (op, as_number(float, "prescale_factor", prescale_factor),
            as_number(float, "postscale_factor", postscale_factor))


def reducescatter_gradient_factor(op, prescale_factor, postscale_factor):
    """By which a reduce-scatter's gradients are multiplied before they are gathered."""
    if op not in (Average, Sum):
        raise NotImplementedError("a reducescatter is differentiable for Average and Sum only")
    return prescale_factor * postscale_factor * (basics.size() if op == Sum else 1)


class _Reducescatter(torch.autograd.Function):
    """The gradient of an average is the ranks' gathered gradients, as Horovod has it; of a sum, as
    many times that as there are ranks."""

    @staticmethod
    def forward(ctx, tensor, name, op, prescale_factor, postscale_factor, compression):
        ctx.process_set = current()
        ctx.arguments = (op, prescale_factor, postscale_factor)
        return synchronize(reducescatter_async(tensor, name, op, None, prescale_factor,
                                               postscale_factor, compression=compression))

    @staticmethod
    def backward(ctx, gradient):
        with used(ctx.process_set):
            factor = reducescatter_gradient_factor(*ctx.arguments)
            return allgather(submit.contiguous(gradient) * factor), None, None, None, None, None


def reducescatter(tensor, name=None, compression=Compression.none, op=Average, process_set=None,
                  prescale_factor=1.0, postscale_factor=1.0):
    """This rank's part of the reduction of `tensor` over all ranks. Differentiable.

    The first dimension is cut in rank order as evenly as can be; the first ranks get the rows that
    are left over. op, prescale_factor and postscale_factor as in allreduce.
    """
    with used(process_set):
        if checked(tensor).requires_grad and torch.is_grad_enabled():
            return _Reducescatter.apply(tensor, name, op, prescale_factor, postscale_factor,
                                        compression)
        return synchronize(reducescatter_async(tensor, name, op, None, prescale_factor,
                                               postscale_factor, compression=compression))


def _split_numbers(splits):
    values = splits.tolist() if isinstance(splits, torch.Tensor) else splits
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise ValueError(f"splits is {values!r}; it must be whole numbers, one for each "
                         "rank") from None


def _submit_alltoall(tensor, splits, name):
    """A ticket, and what makes (rows, received_splits) of it, without splits too."""
    tensor = checked(tensor).detach()
    numbers = [] if splits is None else _split_numbers(splits)
    ticket = submit.submit_named(lib.scalecom_all_to_all, "alltoall", name, tensor,
                                 (ctypes.c_int64 * len(numbers))(*numbers), len(numbers))
    copy = copier(tensor)
    is_short = isinstance(splits, torch.Tensor) and splits.dtype == torch.int32
    dtype, ranks = torch.int32 if is_short else torch.int64, basics.size()
    return ticket, lambda done: (
        copy(done), torch.tensor(done.received_splits(ranks), dtype=dtype, device="cpu"))


def alltoall_async(tensor, splits=None, name=None, process_set=None):
    """Starts an exchange of rows between all ranks; see alltoall."""
    with used(process_set):
        ticket, finish = _submit_alltoall(tensor, splits, name)
        return register(ticket, None, finish if splits is not None else lambda done: finish(done)[0])


class _Alltoall(torch.autograd.Function):
    """The gradients of the rows go back to where these came from: the ranks may have had more rows or
    fewer than this one, without splits too."""

    @staticmethod
    def forward(ctx, tensor, splits, name):
        ctx.process_set = current()
        ticket, finish = _submit_alltoall(tensor, splits, name)
        result, ctx.received = synchronize(register(ticket, None, finish))
        if splits is None:
            return result
        ctx.mark_non_differentiable(ctx.received)
        return result, ctx.received

    @staticmethod
    def backward(ctx, gradient, *_):
        with used(ctx.process_set):
            return alltoall(submit.contiguous(gradient), ctx.received)[0], None, None


def alltoall(tensor, splits=None, name=None, process_set=None):
    """Gives splits[p] rows of `tensor` to rank p, and returns the rows that the ranks gave to this
    one, in rank order. Differentiable.

    splits: whole numbers, one for each rank, that add up to the first dimension; with them the
    result is (rows, received_splits), where received_splits[p] rows came from rank p. Without them
    every rank gets as many rows, and the first dimension must be a multiple of the world size.
    """
    with used(process_set):
        if checked(tensor).requires_grad and torch.is_grad_enabled():
            return _Alltoall.apply(tensor, splits, name)
        return synchronize(alltoall_async(tensor, splits, name))


def _place_of(root_rank):
    """What the process set in use calls that rank of the job."""
    root = as_number(operator.index, "root_rank", root_rank)
    process_set = current()
    return root if process_set is global_process_set else process_set.place_of(root)


def _submit_broadcast(tensor, root_rank, name):
    return submit.submit_named(lib.scalecom_broadcast, "broadcast", name, tensor, _place_of(root_rank))


def broadcast_async(tensor, root_rank, name=None, process_set=None):
    """Starts a copy of root_rank's tensor to every rank; the result is a new tensor."""
    with used(process_set):
        view(checked(tensor))  # Refuses what clone() would make good.
        copy = tensor.detach().clone()
        return register(_submit_broadcast(copy, root_rank, name), copy)


def broadcast_async_(tensor, root_rank, name=None, process_set=None):
    """As broadcast_async, in place."""
    with used(process_set):
        return register(_submit_broadcast(checked(tensor).detach(), root_rank, name), tensor)


def broadcast_all_(names, tensors, root_rank):
    """broadcast_ of each tensor, at the cost of little more than one where all are in the host's memory."""
    ticket = None
    if all(tensor.is_cpu for tensor in tensors):
        ticket = submit.broadcast_group(tensors, [full_name("broadcast", name) for name in names],
                                        _place_of(root_rank))
    if ticket is not None:
        ticket.wait()
        return
    _library.run_all(_submit_broadcast(checked(tensor).detach(), root_rank, name)
                     for name, tensor in zip(names, tensors))


class _Broadcast(torch.autograd.Function):
    """The gradient is the averaged gradients on the root, and zero elsewhere."""

    @staticmethod
    def forward(ctx, tensor, root_rank, name):
        ctx.process_set = current()
        ctx.root_rank = root_rank
        return synchronize(broadcast_async(tensor, root_rank, name))

    @staticmethod
    def backward(ctx, gradient):
        with used(ctx.process_set):
            reduced = allreduce(submit.contiguous(gradient), op=Average)
            is_root = basics.rank() == _place_of(ctx.root_rank)
            return reduced if is_root else reduced * 0, None, None


def broadcast(tensor, root_rank, name=None, process_set=None):
    """root_rank's tensor, on every rank. Differentiable."""
    with used(process_set):
        if checked(tensor).requires_grad and torch.is_grad_enabled():
            return _Broadcast.apply(tensor, root_rank, name)
        return synchronize(broadcast_async(tensor, root_rank, name))


def broadcast_(tensor, root_rank, name=None, process_set=None):
    """As broadcast, in place."""
    return synchronize(broadcast_async_(tensor, root_rank, name, process_set))


def barrier(process_set=None):
    """Returns when every rank has called it."""
    with used(process_set):
        _library.submit(lib.scalecom_barrier, (), None).wait()


def join(device=-1):
    """This rank is out of data: scalecom.process_sets.join. device -1 is torch's current CUDA device,
    if the process uses CUDA; where no tensor has been before, the session's device from then on."""
    device = as_number(operator.index, "device", device)
    if device < 0 and torch.cuda.is_initialized():
        device = torch.cuda.current_device()
    return process_sets.join(device)


def poll(handle):
    """True when synchronize(handle) would not wait."""
    ticket, _, _ = _find(handle)
    return ticket.is_ready()


def synchronize(handle):
    """Sleeps until the operation completes and returns its result. Use each handle once; again where a
    signal's handler has raised meanwhile."""
    ticket, result, finish = _find(handle)
    try:
        ticket.wait()
    except HorovodInternalError:
        _handles.pop(handle, None)
        raise
    _handles.pop(handle, None)
    return result if finish is None else finish(ticket)


def _find(handle):
    operation = _handles.get(handle)
    if operation is None:
        raise ValueError(f"handle {handle} is not known; each handle can be synchronized once")
    return operation
