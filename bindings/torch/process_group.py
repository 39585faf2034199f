"""The process group of torch.distributed's backend "scalecom"; see scalecom.torch.distributed.

Collectives of torch.distributed have no names. A group numbers them, so every rank must call the same
ones in the same order; where ranks do not, the error names what differs. The numbers start again, so
that a loop's names are known from its last rounds. Tensors may lie in any way: those that are not
contiguous travel as copies.
"""

import ctypes
import itertools
import math
import threading

import torch
import torch.distributed as dist

from scalecom import reductions
from scalecom._library import lib
from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import used
from scalecom.torch import completion, submit
from scalecom.torch.eager import eager
from scalecom.torch.work import DoneWork, Work, WorkWithoutResult

_OPS = {dist.ReduceOp.RedOpType.SUM: reductions.Sum, dist.ReduceOp.RedOpType.AVG: reductions.Average,
        dist.ReduceOp.RedOpType.PRODUCT: reductions.Product, dist.ReduceOp.RedOpType.MIN: reductions.Min,
        dist.ReduceOp.RedOpType.MAX: reductions.Max}
# A group has as many names. A loop of 1 to 8 collectives, or of any number that divides it, meets the
# same operation again under each, as the cache and the steady state need it. More in flight wait.
_NAMES = 840


def _op_of(opts):
    op = opts.reduceOp.op
    if op not in _OPS:
        raise ValueError(f"op is {op.name}; the scalecom backend takes "
                         f"{', '.join(known.name for known in _OPS)}: use new_group("
                         "backend=\"gloo\") for bitwise ones, and scale the tensor for PREMUL_SUM")
    return _OPS[op]


def _only(tensors, what):
    if isinstance(tensors, torch.Tensor):
        return tensors.detach()
    if len(tensors) != 1:
        raise ValueError(f"{what} holds {len(tensors)} tensors; a process group of scalecom has one "
                         "device, and takes one")
    return tensors[0].detach()


def _elements(tensors):
    return sum(tensor.numel() for tensor in tensors)


def _check_elements(outputs, count, source, what):
    """ValueError unless the outputs have `count` elements of the source's type on its device."""
    if _elements(outputs) != count or any(
            (output.dtype, output.device) != (source.dtype, source.device) for output in outputs):
        raise ValueError(f"{what} gives {count} elements of {source.dtype} on {source.device}; the "
                         f"output has {_elements(outputs)} of {outputs[0].dtype} on "
                         f"{outputs[0].device}")


def _scatter_into(flat, targets):
    pieces = flat.reshape(-1).split([target.numel() for target in targets])
    for target, piece in zip(targets, pieces):
        target.copy_(piece.view(target.shape))


def _deliver(ticket, targets):
    """Copies the result of a completed operation into `targets`, one after another."""
    count = math.prod(ticket.output_shape())
    if count != _elements(targets):
        raise HorovodInternalError(f"the ranks gave {count} elements, and the outputs here take "
                                   f"{_elements(targets)}: give tensors of the sizes that the "
                                   "other ranks give")
    is_direct = len(targets) == 1 and targets[0].is_contiguous() and not targets[0].is_neg()
    flat = targets[0] if is_direct else torch.empty(count, dtype=targets[0].dtype,
                                                    device=targets[0].device)
    ticket.copy_output(flat.data_ptr(), submit.stream_of(flat))
    if not is_direct:
        _scatter_into(flat, targets)


def _empty(rows):
    """The shape of a part without elements, beside which others have `rows` of one element or one."""
    return (rows, 0) if rows else (0, 1)


def _settle(ticket):
    """Waits for an operation; what has become of it is told to who has its Work."""
    try:
        ticket.wait()
    except HorovodInternalError:
        pass


class ScaleComProcessGroup(dist.ProcessGroup):
    """All ranks of the job in its order, or those of a process set.

    Every method submits and returns a Work; where its options say that the caller waits anyhow, it
    does so itself. ValueError at once for what is wrong on this rank, a RuntimeError with the
    runtime's text for what goes wrong between ranks. The runtime's own limits hold, not the group's
    timeout, but for messages of two ranks.
    """

    supports_coalescing = supports_splitting = supports_time_estimate = False

    def __init__(self, name, rank, size, process_set, messages, at_end=lambda: None):
        """messages: the PointToPoint of this rank."""
        super().__init__(rank, size)
        self._rank, self._size = rank, size
        self._name, self._at_end = name.encode(), at_end
        self.process_set = process_set
        self._messages = messages
        self._completion = completion.Completion()
        self._lock = threading.Lock()
        self._number = 0
        self._in_flight = {}  # Tickets by number.

    def _get_backend(self, _device):
        """The group is its own: torch asks what the backend can, from 2.14 on in batch_isend_irecv() too."""
        return self

    def supports_tensor_alloc(self, _device):
        return False

    def getBackendName(self):
        return "scalecom"

    @property
    def group_name(self):
        return self._name.decode()

    def shutdown(self):
        at_end, self._at_end = self._at_end, lambda: None
        self._messages.close()
        at_end()
        self._completion.close()

    abort = shutdown

    # A number is used up when its collective has been submitted: a rank that was refused may repeat.
    def _submit(self, start):
        """(what start(name) returns, the collective's number)."""
        with self._lock, used(self.process_set):
            number = self._number
            if (namesake := self._in_flight.get(number - _NAMES)) is not None:
                _settle(namesake)
            ticket = start(submit.FullName(b"torch.%s.%d" % (self._name, number % _NAMES)))
            self._in_flight[number] = ticket
            self._number += 1
        return ticket, number

    def _run(self, start, finish, outputs, opts, device=None):
        """The Work of the collective that start(name) submits, of which finish(ticket) makes the
        result. device: that of the input where there are no outputs here."""
        ticket, number = self._submit(start)

        def end():
            try:
                ticket.wait()
            finally:
                del self._in_flight[number]
            finish(ticket)
            for output in outputs:
                if output.is_cuda:  # Its memory is another stream's than this, which has written it.
                    output.record_stream(torch.cuda.current_stream(output.device))

        device = outputs[0].device if outputs else device or torch.device("cpu")
        if getattr(opts, "asyncOp", True):
            if device.type != "cuda" or outputs:
                return Work(self._completion.future_of(end, outputs, device))
            future = self._completion.future_of(end, [torch.empty(0, device=device)], device)
            return WorkWithoutResult(future)
        end()
        return DoneWork(outputs, device)

    def _run_exchange(self, function, tensor, arguments, finish, outputs, opts):
        return self._run(lambda name: submit.submit(function, (name, submit.view(tensor), *arguments),
                                                    tensor),
                         finish, outputs, opts, tensor.device)

    def _in_place(self, tensors, start, opts):
        """The Work of what start(name, contiguous tensors) does in place."""
        wires = [submit.contiguous(tensor) for tensor in tensors]

        def finish(_):
            for tensor, wire in zip(tensors, wires):
                if wire is not tensor:
                    tensor.copy_(wire)

        return self._run(lambda name: start(name, wires), finish, tensors, opts)

    @eager
    def allreduce(self, tensors, opts=None):
        opts = opts or dist.AllreduceOptions()
        reduction = submit.reduction_of(_op_of(opts))
        return self._in_place([_only(tensors, "tensors")], lambda name, wires: submit.all_reduce(
            wires[0], wires[0], name, reduction), opts)

    @eager
    def allreduce_coalesced(self, tensors, opts=None):
        opts = opts or dist.AllreduceCoalescedOptions()
        reduction = submit.reduction_of(_op_of(opts))
        return self._in_place([tensor.detach() for tensor in tensors], lambda name, wires:
                              submit.all_reduce_group(wires, wires, name, reduction), opts)

    @eager
    def broadcast(self, tensors, opts=None):
        opts = opts or dist.BroadcastOptions()
        return self._in_place([_only(tensors, "tensors")], lambda name, wires: submit.submit(
            lib.scalecom_broadcast, (name, submit.view(wires[0]), opts.rootRank), wires[0]), opts)

    @eager
    def reduce(self, tensors, opts=None):
        """By an all-reduce, into memory of its own; the root alone takes the result."""
        opts = opts or dist.ReduceOptions()
        reduction, tensor = submit.reduction_of(_op_of(opts)), _only(tensors, "tensors")
        wire = submit.contiguous(tensor)
        reduced = torch.empty_like(wire)
        is_root = self._rank == opts.rootRank
        return self._run(
            lambda name: submit.all_reduce(wire, reduced, name, reduction),
            lambda _: tensor.copy_(reduced) if is_root else None, [tensor], opts)

    def _gather(self, targets, source, opts, rows=1):
        """An all-gather of equal parts, or of those that differ (rows: the elements)."""
        parts = (submit.contiguous(source).view(rows, -1) if source.numel() else
                 source.new_empty(_empty(rows)))
        return self._run_exchange(lib.scalecom_all_gather, parts, (),
                                  lambda ticket: _deliver(ticket, targets), targets, opts)

    @eager
    def allgather(self, output_lists, inputs, opts=None):
        """Of tensors of one size, or of those sizes that the outputs have."""
        source = _only(inputs, "inputs")
        outputs = output_lists[0] if isinstance(output_lists[0], (list, tuple)) else output_lists
        targets = [output.detach() for output in outputs]
        sizes = {target.numel() for target in targets}
        if len(targets) != self._size or targets[self._rank].numel() != source.numel() or any(
                (target.dtype, target.device) != (source.dtype, source.device)
                for target in targets):
            raise ValueError(f"the outputs' sizes are {[target.numel() for target in targets]}, of "
                             f"{targets[0].dtype if targets else 'no type'}; needed is one for each "
                             f"of {self._size} ranks, this rank's of {source.numel()} elements of "
                             f"{source.dtype}, on {source.device}")
        is_even = len(sizes) == 1
        return self._gather(targets, source, opts, 1 if is_even else source.numel())

    @eager
    def all_gather_single(self, output, source, opts=None):
        output, source = output.detach(), source.detach()
        _check_elements([output], source.numel() * self._size, source, "the all-gather")
        return self._gather([output], source, opts)

    @eager
    def all_gather_single_coalesced(self, outputs, sources, opts=None):
        """One all-gather after the other; the Work is that of all."""
        return _last([self.all_gather_single(output, source, opts)
                      for output, source in zip(outputs, sources)])

    @eager
    def reduce_scatter_single(self, output, source, opts=None):
        opts = opts or dist.ReduceScatterOptions()
        output, op = output.detach(), _op_of(opts)
        _check_elements([output] * self._size, source.numel(), source,
                        "each rank's part of the reduce-scatter")
        wire = submit.contiguous(source.detach()).view(self._size, output.numel())
        return self._run_exchange(lib.scalecom_reduce_scatter, wire, (op, 1.0, 1.0),
                                  lambda ticket: _deliver(ticket, [output]), [output], opts)

    @eager
    def reduce_scatter_single_coalesced(self, outputs, sources, opts=None):
        """One reduce-scatter after the other; the Work is that of all."""
        return _last([self.reduce_scatter_single(output, source, opts)
                      for output, source in zip(outputs, sources)])

    @eager
    def reduce_scatter(self, outputs, input_lists, opts=None):
        """Of parts of one size."""
        output, sources = _only(outputs, "outputs"), input_lists[0]
        if len(sources) != self._size or any(source.shape != output.shape for source in sources):
            raise ValueError(f"the inputs' shapes are {[tuple(source.shape) for source in sources]}; "
                             f"needed is one for each of {self._size} ranks, of the output's shape "
                             f"{tuple(output.shape)}: pad them")
        return self.reduce_scatter_single(output, torch.stack(list(sources)), opts)

    def _exchange(self, targets, rows, sent, received, opts):
        """An all-to-all: rank p gets sent[p] of `rows`, and received[p] come from it."""
        splits = (ctypes.c_int64 * self._size)(*sent)

        def finish(ticket):
            came = ticket.received_splits(self._size)
            if came != received:
                raise HorovodInternalError(f"the ranks sent {came} rows to rank {self._rank}, which "
                                           f"expects {received}: each rank's output splits must be "
                                           "what the others' input splits give it")
            if targets:
                _deliver(ticket, targets)

        return self._run_exchange(lib.scalecom_all_to_all, rows, (splits, self._size), finish, targets,
                                  opts)

    @eager
    def gather(self, output_lists, inputs, opts=None):
        """By an all-to-all in which only the root gets something."""
        opts = opts or dist.GatherOptions()
        source = _only(inputs, "inputs")
        is_root = self._rank == opts.rootRank
        targets = [output.detach() for output in output_lists[0]] if is_root else []
        if is_root:
            _check_elements(targets, source.numel() * self._size, source, "the gather")
        return self._exchange(targets, submit.contiguous(source).view(1, source.numel()),
                              _one_at(opts.rootRank, self._size), [int(is_root)] * self._size, opts)

    @eager
    def scatter(self, outputs, input_lists, opts=None):
        """By an all-to-all in which only the root gives something."""
        opts = opts or dist.ScatterOptions()
        output = _only(outputs, "outputs")
        is_root = self._rank == opts.rootRank
        rows = output.new_empty(0, output.numel())
        if is_root:
            sources = input_lists[0]
            _check_elements([output] * self._size, _elements(sources), sources[0],
                            "each rank's part of the scatter")
            rows = torch.stack([source.detach().reshape(output.numel()) for source in sources])
        return self._exchange([output], rows, [int(is_root)] * self._size,
                              _one_at(opts.rootRank, self._size), opts)

    @eager
    def all_to_all_single(self, output, source, output_splits=None, input_splits=None, opts=None):
        output, source = output.detach(), source.detach()
        sent = self._splits(source, input_splits, "input")
        received = self._splits(output, output_splits, "output")
        width = math.prod(source.shape[1:])
        _check_elements([output], sum(received) * width, source, "the all-to-all")
        return self._exchange([output], submit.contiguous(source).view(source.shape[0], width), sent,
                              received, opts)

    def _splits(self, tensor, splits, what):
        rows = tensor.shape[0] if tensor.dim() else 0
        if not splits:
            if tensor.dim() == 0 or rows % self._size:
                raise ValueError(f"the {what} has shape {tuple(tensor.shape)}; without splits its "
                                 f"first dimension is to be a multiple of {self._size} ranks")
            return [rows // self._size] * self._size
        if len(splits) != self._size or sum(splits) != rows or min(splits) < 0:
            raise ValueError(f"the {what} splits are {list(splits)}; needed are {self._size} of them "
                             f"that add up to {rows} rows")
        return list(splits)

    @eager
    def alltoall(self, outputs, sources, opts=None):
        targets = [output.detach() for output in outputs]
        if len(targets) != self._size or len(sources) != self._size:
            raise ValueError(f"{len(targets)} outputs and {len(sources)} inputs are here; needed is "
                             f"one for each of {self._size} ranks")
        rows = torch.cat([source.detach().reshape(-1) for source in sources])
        received = [target.numel() for target in targets]
        _check_elements(targets, sum(received), rows, "the all-to-all")
        return self._exchange(targets, rows, [source.numel() for source in sources], received, opts)

    @eager
    def barrier(self, opts=None):
        # By a number like all others: those of several groups and threads are not to meet.
        here = torch.zeros(1, dtype=torch.uint8, device="cpu")
        return self._run_exchange(lib.scalecom_all_gather, here, (), lambda _: None, [], opts)

    @eager
    def send(self, tensors, peer, tag):
        return self._messages.send(_only(tensors, "tensors"), peer, tag)

    @eager
    def recv(self, tensors, peer, tag):
        return self._messages.receive(_only(tensors, "tensors"), peer, tag)

    def recv_anysource(self, tensors, tag):
        raise NotImplementedError(
            "recv() has no src, and the scalecom backend receives from a rank that is named: give src; or "
            "make a group that can with torch.distributed.new_group(backend=\"gloo\")")

    # As torch calls them before 2.12.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single


def _one_at(place, count):
    return [int(other == place) for other in range(count)]


def _last(works):
    """The Work of all: the completion thread and its stream go in order. The last future knows its
    device, on which who waits lets the stream wait; one of collect_all() does not."""
    futures = [work.get_future() for work in works]
    if not futures:
        return Work(torch.futures.collect_all([]))
    return Work(futures[-1].then(lambda _: list(itertools.chain.from_iterable(
        future.value() for future in futures))))
