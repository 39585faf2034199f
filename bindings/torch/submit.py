"""The way from a torch tensor and its name into libscalecom.

A tensor is read by the DLPack exchange interface of torch 2.10 and later, inside the library. What
that cannot tell (an older torch, a tensor that is refused) is read here, attribute by attribute: it
takes ten times as long and says what is wrong.
"""

import array
import contextlib
import ctypes
import functools
import operator

import torch

from scalecom import _library, process_sets
from scalecom._library import lib

DTYPES = {getattr(torch, name): code for name, code in _library.DTYPES.items()}
DEVICE_KINDS = {"cpu": 0, "cuda": 1}

# None: this torch has none.
_EXCHANGE = _library.exchange_of(torch.Tensor)
_submit_object = _library.quick.scalecom_dlpack_all_reduce
_submit_objects = _library.quick.scalecom_dlpack_all_reduce_group


class FullName(bytes):
    """A name as the ranks know it."""


@functools.lru_cache(maxsize=1 << 14)
def _encoded(kind, name):
    full = f"{kind}.{name}"
    if "\0" in full:
        raise ValueError(f"name is {name!r}; a name cannot hold a zero byte")
    return FullName(full.encode())


def full_name(kind, name):
    """The name that the ranks know, in UTF-8."""
    if type(name) is str:
        return _encoded(kind, name)
    if type(name) is FullName:
        return name
    return _encoded.__wrapped__(kind, name)  # Those that are equal may be written differently, as 1 and 1.0 are.


def with_name(kind, name, start):
    """start(full_name), which submits. Calls without a name are matched by their order on each rank, in
    each process set, since the last join; those that raise do not count."""
    if name is not None:
        return start(full_name(kind, name))
    return process_sets.call_by_number(process_sets.current(), kind, lambda number: start(
        FullName(b"%s.noname.%d" % (kind.encode(), number))))


def _join_member_names(name, count):
    return b"".join(b"%s.%d\0" % (name, place) for place in range(count))


_member_names = functools.lru_cache(maxsize=64)(_join_member_names)


def member_names(full, count):
    """The full names of a group's members, in the order of their places."""
    return [b"%s.%d" % (full, place) for place in range(count)]


def checked(tensor):
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"a torch.Tensor is needed, not a {type(tensor).__name__}")
    return tensor


def view(tensor):
    """The tensor as the C interface takes it; ValueError where it cannot."""
    _check_layout(tensor)
    if not tensor.is_contiguous():
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} is not contiguous; call "
                         "contiguous() first")
    if tensor.is_neg():
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} is a view whose memory holds the "
                         "negative of its values; call resolve_neg() first")
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ValueError(f"dtype {tensor.dtype} is not supported; allowed are "
                         f"{', '.join(str(known) for known in DTYPES)}")
    kind = device_kind(tensor)
    dimensions = tensor.dim()
    shape = (ctypes.c_int64 * dimensions)(*tensor.shape)
    return _library.Tensor(_address_of(tensor), shape, dimensions, dtype, kind,
                           tensor.device.index or 0, stream_of(tensor))


def _check_layout(tensor):
    if tensor.is_nested or tensor.layout != torch.strided:
        layout, remedy = (("nested", "give the tensors of unbind()") if tensor.is_nested else
                          (tensor.layout, "call to_dense() first"))
        raise ValueError(f"the tensor's layout is {layout}; dense (strided) tensors are needed: {remedy}")


def _address_of(tensor):
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # Torch's wrappers, as vmap()'s.
        address = 0
    if address == 0 and tensor.numel() > 0:
        raise ValueError(f"the {type(tensor).__name__} of shape {tuple(tensor.shape)} has no memory of its "
                         "own: it wraps others (give what it wraps, of a DTensor to_local()), only traces "
                         "what is done with it, or its storage was freed")
    return address


def contiguous(tensor):
    """The tensor, or a copy whose memory holds its values in order; ValueError where it has no order."""
    _check_layout(tensor)
    return tensor.contiguous().resolve_neg()


def empty_like(tensor):
    """For the result of a reduction."""
    try:
        return torch.empty_like(tensor)
    except Exception:
        view(tensor)  # Says what is wrong of those that do not travel anyhow.
        raise


def device_kind(tensor):
    """The kind of the tensor's device as the C interface counts; ValueError where it has none."""
    kind = DEVICE_KINDS.get(tensor.device.type)
    if kind is None:
        raise ValueError(f"the tensor is on {tensor.device}; scalecom works on CPU and CUDA "
                         "tensors: call cpu() or cuda() first")
    return kind


def stream_of(tensor):
    """Address of the stream that torch now enqueues on, on the tensor's device; None on a CPU."""
    return current_stream(tensor).cuda_stream if tensor.is_cuda else None


def current_stream(tensor):
    """As stream_of(), torch's object."""
    return torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None


def on_stream(stream):
    """In its context, torch enqueues on what current_stream() was."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


class DeviceTicket(_library.Ticket):
    """Of tensors on one CUDA device. wait() ends when all has been enqueued there; what torch's
    current stream is given afterwards comes behind the operation.

    Memory goes back to the stream that it was allocated for, which need not be the current one, and
    not before that is through with what it holds by then: with the operation too, hence.
    """

    __slots__ = ()

    def wait(self):
        try:
            super().wait()
        finally:
            if self._is_complete:  # Well or badly: the device may be at work.
                self._follow(self._pointer, self._keep)

    @staticmethod
    def _follow(pointer, tensors):
        stream = torch.cuda.current_stream(tensors[0].device)
        _library.check_result(lib.scalecom_ticket_make_wait(pointer, stream.cuda_stream))
        for tensor in tensors:
            tensor.record_stream(stream)

    @staticmethod
    def _end(pointer, keep):
        DeviceTicket._follow(pointer, keep)
        _library.Ticket._end(pointer, keep)


def submit(function, arguments, tensor):
    """Calls a submitting C function for an operation on one tensor; returns its ticket."""
    return _library.submit(function, arguments, (tensor,), _ticket_type(tensor))


def submit_named(function, kind, name, tensor, *arguments):
    """As submit(), by a C function that takes the operation's name, the tensor, and the arguments."""
    return with_name(kind, name, lambda full: submit(function, (full, view(tensor), *arguments), tensor))


def _ticket_type(tensor):
    return DeviceTicket if tensor.is_cuda else _library.Ticket


def as_number(convert, argument, value):
    """The value as the C interface takes it."""
    try:
        return convert(value)
    except (TypeError, ValueError):
        wanted = "a number" if convert is float else "a whole number"
        raise ValueError(f"{argument} is {value!r}; it must be {wanted}") from None


# Every parameter of a model has its own priority.
@functools.lru_cache(maxsize=1 << 14)
def _made_once(op, prescale_factor, postscale_factor, options, priority):
    if not -2**31 <= priority < 2**31:
        raise ValueError(f"priority is {priority}; allowed are {-2**31} to {2**31 - 1}")
    reduction = _library.Reduction(op, prescale_factor, postscale_factor, priority=priority)
    if options is not None:
        reduction.compression = options
    reduction.address = ctypes.addressof(reduction)
    return reduction


def reduction_of(op, prescale_factor=1.0, postscale_factor=1.0, options=None, priority=0):
    """The C structure of an all-reduce, made once for each. options: of its compression, or None. ValueError
    for factors that are no numbers and a priority that is no whole number of 32 bits."""
    if not (type(prescale_factor) is type(postscale_factor) is float and type(priority) is int):
        # What is no float may be equal to another and change: it is no key.
        prescale_factor = as_number(float, "prescale_factor", prescale_factor)
        postscale_factor = as_number(float, "postscale_factor", postscale_factor)
        priority = as_number(operator.index, "priority", priority)
    return _made_once(op, prescale_factor, postscale_factor, options, priority)


def all_reduce(tensor, output, name, reduction):
    """Submits an all-reduce by what reduction_of() made, and returns its ticket."""
    if type(name) is str:
        name = _encoded("allreduce", name)
    elif type(name) is not FullName:
        return with_name("allreduce", name, lambda full: all_reduce(tensor, output, full, reduction))
    # These lines are most of a submit's cost in Python; calls in them are avoided.
    if _EXCHANGE is not None and not tensor.is_neg():  # A bit that DLPack does not know.
        try:
            pointer = _submit_object(_EXCHANGE, name, id(tensor),
                                     None if output is tensor else id(output), reduction.address)
        except Exception:  # What torch says of a tensor that it cannot export.
            pointer = None
        else:
            if pointer is not None:
                kind = DeviceTicket if tensor.is_cuda else _library.Ticket
                return kind(pointer, (tensor, output))
            _library.check_objects()
    source = view(tensor)
    target = source if output is tensor else view(output)
    arguments = (name, source, target, reduction.op, reduction.prescale, reduction.postscale,
                 reduction.compression, reduction.priority)
    return _library.submit(lib.scalecom_all_reduce, arguments, (tensor, output),
                           _ticket_type(tensor))


def all_reduce_group(tensors, outputs, name, reduction):
    """Submits an all-reduce of each tensor, all or none, and returns their one ticket. The member at
    place i is the tensor `name`.i. The lists stay as they are until the ticket completes."""
    join = _join_member_names if name is None else _member_names
    return with_name("allreduce", name, lambda full: _all_reduce_members(
        tensors, outputs, join(full, len(tensors)), reduction))


def _all_reduce_members(tensors, outputs, names, reduction):
    count = len(tensors)
    ticket = _submit_list(names, tensors, outputs, [reduction] * count)
    if ticket is not None:
        return ticket
    sources = (_library.Tensor * count)(*map(view, tensors))
    targets = sources if outputs is tensors else (_library.Tensor * count)(*map(view, outputs))
    arguments = ((ctypes.c_char_p * count)(*names.split(b"\0")[:count]), sources, targets, count,
                 reduction)
    return _library.submit(lib.scalecom_all_reduce_group, arguments, (tensors, outputs),
                           _group_ticket)


def submit_each(function, names, tensors, arguments=()):
    """Submits each tensor under its full name by a C function that takes a group, all or none;
    returns their tickets."""
    return _library.submit_each(function, names, map(view, tensors), arguments, tensors,
                                lambda pointer, tensor: _ticket_type(tensor)(pointer, (tensor,)))


def all_reduce_burst(tensors, names, reductions):
    """Submits an all-reduce in place of each tensor, on one device, under its full name and by what
    reduction_of() made, all or none; returns their one ticket, or None where one cannot be read here,
    of which all_reduce() can tell more."""
    return _submit_list(b"\0".join(names) + b"\0", tensors, tensors, reductions)


def broadcast_group(tensors, names, root):
    """Submits a broadcast in place of each tensor, on one device, under its full name, all or none;
    returns their one ticket, or None where one cannot be read here, of which submit() can tell more."""
    objects = array.array("q", map(id, tensors))
    return _submit_objects_by(_library.quick.scalecom_dlpack_broadcast_group, tensors, tensors,
                              b"\0".join(names) + b"\0", objects.buffer_info()[0], len(tensors), root)


def _submit_list(names, tensors, outputs, reductions):
    """The one ticket of all-reduces, all or none; None where a tensor cannot be read here."""
    # In CPython, an object's id is its address.
    sources = array.array("q", map(id, tensors))
    targets = None if outputs is tensors else array.array("q", map(id, outputs))
    ways = array.array("q", [reduction.address for reduction in reductions])
    return _submit_objects_by(_submit_objects, tensors, outputs, names, sources.buffer_info()[0],
                              None if targets is None else targets.buffer_info()[0],
                              len(tensors), ways.buffer_info()[0])


def _submit_objects_by(function, tensors, outputs, *arguments):
    if _EXCHANGE is None or any(map(torch.Tensor.is_neg, tensors)):
        return None
    try:
        pointer = function(_EXCHANGE, *arguments)
    except Exception:  # What torch says of a tensor that it cannot export.
        return None
    if pointer is None:
        _library.check_objects()
        return None
    return _group_ticket(pointer, (tensors, outputs))


def _group_ticket(pointer, keep):
    tensors, outputs = keep
    if tensors and tensors[0].is_cuda:
        return DeviceTicket(pointer, tensors if outputs is tensors else [*tensors, *outputs])
    return _library.Ticket(pointer, keep)
