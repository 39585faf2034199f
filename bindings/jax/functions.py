"""Python objects, the same on every rank."""

import ctypes
import pickle

import jax
import numpy

from scalecom import _library, basics
from scalecom._library import lib

_UINT8, _INT64 = 0, 4


def _view(array):
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    dtype = _UINT8 if array.dtype == numpy.uint8 else _INT64
    return _library.Tensor(array.ctypes.data, shape, array.ndim, dtype, 0, 0, None)


def _gather(name, array):
    """The ranks' arrays of one dimension, concatenated; their lengths may differ."""
    ticket = _library.submit(lib.scalecom_all_gather, (name.encode(), _view(array)), (array,))
    ticket.wait()
    gathered = numpy.empty(ticket.output_shape(), array.dtype)
    ticket.copy_output(gathered.ctypes.data, None)
    return gathered


def allgather_object(obj, name=None):
    """The objects of all ranks in rank order; they are pickled."""
    name = f"allgather.{name or type(obj).__name__}.object"
    mine = numpy.frombuffer(pickle.dumps(obj), numpy.uint8)
    sizes = _gather(f"{name}_size", numpy.array([mine.size]))
    parts = numpy.split(_gather(name, mine), numpy.cumsum(sizes)[:-1])
    return [pickle.loads(part.tobytes()) for part in parts]


def broadcast_object(obj, root_rank=0, name=None):
    """root_rank's object, on every rank; it is pickled."""
    if root_rank not in range(basics.size()):
        raise ValueError(f"root_rank is {root_rank!r}; allowed are 0 to {basics.size() - 1}")
    is_root = basics.rank() == root_rank
    name = f"broadcast.{name or type(obj).__name__}.object"
    # A gather to which only the root gives something knows the size by itself.
    values = numpy.frombuffer(pickle.dumps(obj) if is_root else b"", numpy.uint8)
    everything = _gather(name, values)
    return obj if is_root else pickle.loads(everything.tobytes())


def barrier():
    """Returns when every rank has called it, and what this thread has dispatched before is done."""
    jax.effects_barrier()
    _library.submit(lib.scalecom_barrier, (), ()).wait()
