"""Variables and Python objects, the same on every rank."""

import numpy
import tensorflow as tf

from scalecom import basics, pickling
from scalecom.process_sets import global_process_set
from scalecom.tensorflow import mpi_ops, operations


def broadcast_variables(variables, root_rank, process_set=global_process_set, inplace=False):
    """Gives `variables`, of tf or of Keras, root_rank's values: one operation, however many they are.
    They are matched by their order. `inplace` is Horovod's; a value has to be copied here. In a graph
    of tf.compat.v1 it is an operation that is returned, to be run."""
    assigned = mpi_ops.broadcast_(variables, root_rank, process_set=process_set)
    return None if tf.compat.v1.executing_eagerly_outside_functions() else tf.group(*assigned)


def broadcast_global_variables(root_rank):
    """In a graph of tf.compat.v1, the operation that gives its global variables root_rank's values."""
    if tf.executing_eagerly():
        raise RuntimeError("broadcast_global_variables() needs a graph of tf.compat.v1; eagerly call "
                           "broadcast_variables(variables, root_rank)")
    return broadcast_variables(tf.compat.v1.global_variables(), root_rank)


class BroadcastGlobalVariablesHook(tf.compat.v1.train.SessionRunHook):
    """Gives a tf.compat.v1 graph's global variables root_rank's values once its session is there.
    `device` is Horovod's."""

    def __init__(self, root_rank, device=""):
        super().__init__()
        self._root_rank = root_rank
        self._broadcast = None

    def begin(self):
        if self._broadcast is None or self._broadcast.graph is not tf.compat.v1.get_default_graph():
            self._broadcast = broadcast_global_variables(self._root_rank)

    def after_create_session(self, session, coord):
        session.run(self._broadcast)


def _check_eager(function, session):
    if session is not None or not tf.executing_eagerly():
        raise NotImplementedError(f"{function} works eagerly only: call it outside of tf.function and "
                                  "without a session")


def broadcast_object(obj, root_rank=0, session=None, name=None, process_set=global_process_set):
    """root_rank's object, on every rank; it is pickled: ValueError on all ranks where it cannot be."""
    _check_eager("broadcast_object", session)
    name = name or "any"
    is_root = operations.rank_in(process_set) == mpi_ops.place_of(root_rank, process_set)
    packed = pickling.pack(obj, root_rank) if is_root else b""
    values = numpy.frombuffer(packed, numpy.uint8)
    size = mpi_ops.broadcast(tf.constant(len(values), tf.int64), root_rank, f"{name}.object_size",
                             process_set=process_set)
    if not is_root:
        values = numpy.empty(int(size), numpy.uint8)
    values = mpi_ops.broadcast(values, root_rank, f"{name}.object", process_set=process_set)
    return pickling.sent(obj, packed) if is_root else pickling.unpack(values.numpy().tobytes())


def broadcast_object_fn(root_rank=0, session=None, name=None, process_set=global_process_set):
    """broadcast_object as a function of the object alone."""
    return lambda obj: broadcast_object(obj, root_rank, session, name, process_set)


def allgather_object(obj, session=None, name=None, process_set=global_process_set):
    """The objects of all ranks in rank order; they are pickled: ValueError on all ranks where one
    cannot be."""
    _check_eager("allgather_object", session)
    name = name or "any"
    values = numpy.frombuffer(pickling.pack(obj, basics.rank()), numpy.uint8)
    sizes = mpi_ops.allgather(tf.constant([len(values)], tf.int64), f"{name}.object_size",
                              process_set=process_set)
    everything = mpi_ops.allgather(values, f"{name}.object", process_set=process_set).numpy()
    parts = numpy.split(everything, numpy.cumsum(sizes.numpy())[:-1])
    return [pickling.unpack(part.tobytes()) for part in parts]
