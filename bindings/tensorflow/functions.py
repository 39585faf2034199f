"""Variables and Python objects, the same on every rank."""

import tensorflow as tf

from scalecom import arrays
from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import global_process_set, used
from scalecom.tensorflow import mpi_ops
from scalecom.tensorflow.operations import error_of


def broadcast_variables(variables, root_rank, process_set=global_process_set, inplace=False):
    """Gives `variables`, of tf or of Keras, root_rank's values: one operation, however many they are.
    They are matched by their order; eagerly, FailedPreconditionError on every rank where they have different numbers
    of them. `inplace` is Horovod's; a value has to be copied here. In a graph of tf.compat.v1 it is an operation that
    is returned, to be run."""
    variables = list(variables)
    if tf.executing_eagerly():
        with used(process_set):
            try:
                arrays.check_counts(len(variables), "variables")
            except HorovodInternalError as error:
                raise error_of(error) from error
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


def _refuse_function(name):
    if tf.inside_function():
        raise NotImplementedError(f"{name} is done at once, which a tf.function cannot: call it outside")


def broadcast_object(obj, root_rank=0, session=None, name=None, process_set=global_process_set):
    """root_rank's object, on every rank; it is pickled: ValueError on all ranks where it cannot be. It is done
    at once, also while a graph of tf.compat.v1 is made or a session runs one. `session` is Horovod's."""
    _refuse_function("broadcast_object")
    with used(process_set):
        return arrays.broadcast_object(obj, mpi_ops.place_of(root_rank, process_set), name)


def broadcast_object_fn(root_rank=0, session=None, name=None, process_set=global_process_set):
    """broadcast_object as a function of the object alone."""
    return lambda obj: broadcast_object(obj, root_rank, session, name, process_set)


def allgather_object(obj, session=None, name=None, process_set=global_process_set):
    """The objects of all ranks in rank order, as broadcast_object has them."""
    _refuse_function("allgather_object")
    with used(process_set):
        return arrays.allgather_object(obj, name)
