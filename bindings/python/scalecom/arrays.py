"""Collectives on numpy's arrays and Python objects, for what is not of one framework.

A call waits for all ranks. The names are full ones. Where the ranks disagree every one of them gets
HorovodInternalError; wrong arguments raise ValueError.
"""

import ctypes

import numpy

from scalecom import _library, basics, pickling
from scalecom._library import DTYPES, lib
from scalecom.exceptions import HorovodInternalError
from scalecom.residuals import Residuals

_FLOATS = ("float16", "float32", "float64", "bfloat16")

# Those of the process set in use.
residuals = Residuals(
    zeros=lambda shape: numpy.zeros(shape, numpy.float32),
    is_array=lambda value: getattr(getattr(value, "dtype", None), "name", None) in _FLOATS,
    to_host=lambda array: numpy.ascontiguousarray(array, numpy.float32).reshape(numpy.shape(array)),
    to_double=lambda array: numpy.asarray(array, numpy.float64),
    count_nonfinite=lambda array: int(array.size - numpy.isfinite(array).sum()),
    address_of=lambda array: array.ctypes.data)


def view(array):
    """A contiguous array as the C interface takes it; ValueError for a dtype that does not travel."""
    assert array.flags.c_contiguous, array.strides
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise ValueError(f"dtype {array.dtype} is not supported; allowed are {', '.join(DTYPES)}")
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    return _library.Tensor(array.ctypes.data, shape, array.ndim, dtype, 0, 0, None)


def all_reduce(name, array, op):
    """The reduction of `array` over all ranks."""
    reduced = numpy.empty_like(array)
    arguments = (name.encode(), view(array), view(reduced), op, 1.0, 1.0, None, 0)
    _library.submit(lib.scalecom_all_reduce, arguments, (array, reduced)).wait()
    return reduced


def all_gather(name, array):
    """The ranks' arrays, concatenated along the first dimension, which may differ."""
    ticket = _library.submit(lib.scalecom_all_gather, (name.encode(), view(array)), (array,))
    ticket.wait()
    gathered = numpy.empty(ticket.output_shape(), array.dtype)
    ticket.copy_output(gathered.ctypes.data, None)
    return gathered


def broadcast(names, arrays, root_rank):
    """root_rank's arrays, as new ones."""
    root = checked_root(root_rank)
    sent = [numpy.array(array, order="C", ndmin=0) for array in arrays]
    _library.run_all(_library.submit(lib.scalecom_broadcast, (name.encode(), view(array), root), (array,))
                     for name, array in zip(names, sent))
    return sent


def check_counts(count, words):
    """HorovodInternalError on every rank where they have different counts of what `words` call, matched by their
    order: a rank with more would wait for the others."""
    counts = all_gather(f"allgather.{_library.own_name(f'number of {words} (a broadcast)')}", numpy.array([count]))
    if len(set(counts)) > 1:
        raise HorovodInternalError(f"the ranks have {counts.tolist()} {words}, by rank, and each has to have the same: "
                                   "give all the same model, built, and the same optimizer", code=_library.MISMATCH)


def checked_root(root_rank):
    if root_rank not in range(basics.size()):
        raise ValueError(f"root_rank is {root_rank!r}; allowed are 0 to {basics.size() - 1}")
    return int(root_rank)


def allgather_object(obj, name=None):
    """The objects of all ranks in rank order; they are pickled: ValueError on all ranks where one
    cannot be."""
    name = f"allgather.{name or 'allgather_object'}.object"
    mine = numpy.frombuffer(pickling.pack(obj, basics.rank()), numpy.uint8)
    sizes = all_gather(f"{name}_size", numpy.array([mine.size]))
    parts = numpy.split(all_gather(name, mine), numpy.cumsum(sizes)[:-1])
    return [pickling.unpack(part.tobytes()) for part in parts]


def broadcast_object(obj, root_rank=0, name=None):
    """root_rank's object, on every rank; it is pickled: ValueError on all ranks where it cannot be."""
    is_root = basics.rank() == checked_root(root_rank)
    # Only the root gives something: the gather knows its size by itself.
    packed = pickling.pack(obj, root_rank) if is_root else b""
    everything = all_gather(f"broadcast.{name or 'broadcast_object'}.object", numpy.frombuffer(packed, numpy.uint8))
    return pickling.sent(obj, packed) if is_root else pickling.unpack(everything.tobytes())


def barrier():
    """Returns when every rank has called it."""
    _library.submit(lib.scalecom_barrier, (), ()).wait()
