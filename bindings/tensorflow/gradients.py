"""The gradients of the operations, which are collectives too."""

import tensorflow as tf

from scalecom import process_sets
from scalecom.reductions import Adasum, Average, Sum
from scalecom.tensorflow import operations

_by_operation = {}


def of(operation):
    """The gradient function of an operation, by its type."""
    return _by_operation[operation]


def _gradient_of(operation):
    def register(function):
        _by_operation[operation] = function
        return tf.RegisterGradient(operation)(function)

    return register


def _set_of(op):
    return process_sets.find_process_set(op.get_attr("process_set"))


def _reduction_of(op):
    """(op, prescale, postscale) of the first of the operation's reductions."""
    text = op.get_attr("reductions")[0]
    kind, prescale, postscale = (text.decode() if isinstance(text, bytes) else text).split()[:3]
    if int(kind) not in (Average, Sum, Adasum):
        raise NotImplementedError("a reduction is differentiable for Average, Sum and Adasum only")
    return int(kind), float(prescale), float(postscale)


def _dense(gradients, outputs):
    return [tf.zeros_like(output) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, output in zip(gradients, outputs)]


def _all_reduced(gradients, process_set, *reduction):
    return operations.all_reduce(gradients, operations.name_group("allreduce", None, process_set),
                                 process_set, [operations.describe_reduction(*reduction)])


@_gradient_of("ScalecomAllReduce")
def _of_all_reduce(op, *gradients):
    """The same reductions of the gradients, without compression."""
    return [None, *_all_reduced(_dense(gradients, op.outputs), _set_of(op), *_reduction_of(op))]


@_gradient_of("ScalecomAllGather")
def _of_all_gather(op, *gradients):
    """This rank's parts of the averaged gradients."""
    process_set, tensors = _set_of(op), op.inputs[1:]
    reduced = _all_reduced(_dense(gradients, op.outputs), process_set, Average)
    mine = tf.stack([tf.shape(tensor, tf.int64)[0] for tensor in tensors])
    rows, = operations.all_gather([mine[tf.newaxis]],
                                  operations.name_one("allgather", None, process_set), process_set)
    begins = tf.reduce_sum(rows[:operations.rank_when_run(process_set)], axis=0)
    return [None, *(gradient[begins[place]:begins[place] + mine[place]]
                    for place, gradient in enumerate(reduced))]


@_gradient_of("ScalecomReduceScatter")
def _of_reduce_scatter(op, *gradients):
    """The ranks' gathered gradients; of a sum, as many times that as there are ranks."""
    process_set, (kind, prescale, postscale) = _set_of(op), _reduction_of(op)
    factor = prescale * postscale
    if kind == Sum:
        factor *= operations.size_when_run(process_set, tf.float64)
    scaled = [gradient * tf.cast(factor, gradient.dtype)
              for gradient in _dense(gradients, op.outputs)]
    return [None, *operations.all_gather(
        scaled, operations.name_group("allgather", None, process_set), process_set)]


@_gradient_of("ScalecomBroadcast")
def _of_broadcast(op, *gradients):
    """The averaged gradients on the root, zero elsewhere."""
    process_set = _set_of(op)
    reduced = _all_reduced(_dense(gradients, op.outputs), process_set, Average)
    # Not ==, which in a graph of tf.compat.v1 asks whether they are one tensor.
    is_root = tf.equal(operations.rank_when_run(process_set), op.get_attr("root"))
    return [None, *(tf.where(is_root, gradient, tf.zeros_like(gradient)) for gradient in reduced)]


@_gradient_of("ScalecomAllToAll")
def _of_all_to_all(op, gradient, _):
    """The gradients of the rows, back where these came from."""
    process_set = _set_of(op)
    back, _ = operations.all_to_all(
        tf.convert_to_tensor(gradient), op.outputs[1],
        operations.name_one("alltoall", None, process_set), process_set)
    return [None, back, None]


tf.no_gradient("ScalecomFact")
