"""The operations of libscalecom_tensorflow.so as Python functions that wait: for a TensorFlow that does
not take kernels over its C interface. Their arguments are the operations' inputs and attributes.

In a graph they run by tf.numpy_function, on one of TensorFlow's threads, and all that goes wrong between
ranks is an UnknownError, with the text alone, as TensorFlow keeps no other kind; eagerly errors are those of
the operations.
"""

import ctypes

import numpy
import tensorflow as tf

from scalecom import _library, basics, process_sets
from scalecom._library import lib
from scalecom.arrays import view
from scalecom.exceptions import HorovodInternalError
from scalecom.tensorflow import gradients
from scalecom.tensorflow.operations import ERRORS, error_of


class _Record:
    """What a gradient function reads of an operation."""

    def __init__(self, inputs, outputs, attributes):
        self.inputs, self.outputs, self._attributes = inputs, outputs, attributes

    def get_attr(self, name):
        return self._attributes[name]


def _run(kind, inputs, dtypes, shapes, compute, attributes):
    """Results of compute(arrays), differentiable as the operation `kind` is."""

    @tf.custom_gradient
    def run(*tensors):
        if tf.executing_eagerly():
            outputs = [tf.constant(result) for result in _eagerly(
                compute, [tensor.numpy() for tensor in tensors])]
        else:
            outputs = tf.numpy_function(lambda *values: compute(_arrays(values)), tensors, dtypes)
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            for output, shape in zip(outputs, shapes):
                output.set_shape(shape)
        record = _Record([None, *tensors], outputs, attributes)
        return list(outputs), lambda *upstream: gradients.of(kind)(record, *upstream)[1:]

    return run(*map(tf.convert_to_tensor, inputs))


def _arrays(values):
    return [numpy.asarray(value, order="C") for value in values]  # Scalars are none yet.


def _eagerly(compute, values):
    try:
        return compute(_arrays(values))
    except ValueError as error:
        is_ours = str(error) == _library.last_error()
        code = _library.quick.scalecom_last_code() if is_ours else _library.INVALID_ARGUMENT
        kind = ERRORS.get(code, tf.errors.InvalidArgumentError)
        raise kind(None, None, str(error)) from error
    except HorovodInternalError as error:
        raise error_of(error) from error


def _full_names(prefix, suffixes, call, count):
    start = f"{prefix}.{call}" if call >= 0 else prefix
    return [(start + (suffixes[place] if place < len(suffixes) else f".{place}")).encode()
            for place in range(count)]


def _reduction(text):
    op, prescale, postscale, mode, rate, beta, warmup, values, guard, ramp, priority = text.split()
    return _library.Reduction(
        int(op), float(prescale), float(postscale),
        _library.CompressionOptions(int(mode), int(rate), float(beta), int(warmup), int(values),
                                    float(guard), int(ramp)), int(priority))


def _output_of(ticket, like):
    result = numpy.empty(ticket.output_shape(), like.dtype)
    ticket.copy_output(result.ctypes.data, None)
    return result


def scalecom_all_reduce(call, tensors, prefix, suffixes, process_set, reductions):
    def compute(arrays):
        names = _full_names(prefix, suffixes, call, len(arrays))
        outputs = [numpy.empty_like(array) for array in arrays]

        def submit(text):
            places = [place for place in range(len(arrays))
                      if reductions[place if len(reductions) > 1 else 0] == text]
            keep = [(arrays[place], outputs[place]) for place in places]
            arguments = ((ctypes.c_char_p * len(places))(*(names[place] for place in places)),
                         (_library.Tensor * len(places))(*(view(pair[0]) for pair in keep)),
                         (_library.Tensor * len(places))(*(view(pair[1]) for pair in keep)),
                         len(places), _reduction(text))
            return _library.submit(lib.scalecom_all_reduce_group, arguments, keep)

        with process_sets.used(process_sets.find_process_set(process_set)):
            _library.run_all(map(submit, dict.fromkeys(reductions)))
        return outputs

    return _run("ScalecomAllReduce", tensors, [one.dtype for one in tensors],
                [one.shape for one in tensors], compute,
                {"process_set": process_set, "reductions": reductions})


def _run_each(kind, function, tensors, names, process_set, attributes, more=()):
    """An operation whose C function takes a group and makes its own results."""
    prefix, suffixes, call = names

    def compute(arrays):
        full = _full_names(prefix, suffixes, call, len(arrays))
        with process_sets.used(process_sets.find_process_set(process_set)):
            tickets = _library.submit_each(function, full, map(view, arrays), more, arrays)
            _library.Tickets(tickets).wait()
            return [_output_of(ticket, array) for ticket, array in zip(tickets, arrays)]

    shapes = [tf.TensorShape([None, *one.shape[1:]]) if one.shape.rank else None for one in tensors]
    return _run(kind, tensors, [one.dtype for one in tensors], shapes, compute,
                {"process_set": process_set, **attributes})


def scalecom_all_gather(call, tensors, prefix, suffixes, process_set):
    return _run_each("ScalecomAllGather", lib.scalecom_all_gather_group, tensors,
                     (prefix, suffixes, call), process_set, {})


def scalecom_reduce_scatter(call, tensors, prefix, suffixes, process_set, reductions):
    reduction = _reduction(reductions[0])
    return _run_each("ScalecomReduceScatter", lib.scalecom_reduce_scatter_group, tensors,
                     (prefix, suffixes, call), process_set, {"reductions": reductions},
                     (reduction.op, reduction.prescale, reduction.postscale))


def scalecom_broadcast(call, tensors, prefix, suffixes, process_set, root):
    def compute(arrays):
        copies = [array.copy() for array in arrays]
        names = _full_names(prefix, suffixes, call, len(arrays))
        with process_sets.used(process_sets.find_process_set(process_set)):
            _library.run_all(_library.submit(lib.scalecom_broadcast, (name, view(copy), root), copy)
                             for name, copy in zip(names, copies))
        return copies

    return _run("ScalecomBroadcast", tensors, [one.dtype for one in tensors],
                [one.shape for one in tensors], compute, {"process_set": process_set, "root": root})


def scalecom_all_to_all(call, rows, splits, prefix, suffixes, process_set):
    def compute(arrays):
        array, numbers = arrays
        with process_sets.used(process_sets.find_process_set(process_set)):
            name, = _full_names(prefix, suffixes, call, 1)
            arguments = (name, view(array), (ctypes.c_int64 * len(numbers))(*numbers), len(numbers))
            ticket = _library.submit(lib.scalecom_all_to_all, arguments, array)
            ticket.wait()
            received = ticket.received_splits(basics.size())
            return [_output_of(ticket, array), numpy.array(received, numpy.int64)]

    return _run("ScalecomAllToAll", [rows, splits], [rows.dtype, tf.int64],
                [tf.TensorShape([None, *rows.shape[1:]]), tf.TensorShape([None])], compute,
                {"process_set": process_set})


def scalecom_barrier(process_set):
    def compute(_):
        with process_sets.used(process_sets.find_process_set(process_set)):
            _library.submit(lib.scalecom_barrier, (), None).wait()
        return [numpy.int32(0)]

    _run(None, [], [tf.int32], [tf.TensorShape([])], compute, {})


def _is_included(process_set):
    try:
        return process_sets.find_process_set(process_set).included()
    except ValueError:
        return False


def scalecom_fact(fact, process_set, name=None):
    def compute(_):
        if fact == 4:
            return [numpy.int32(_is_included(process_set))]
        with process_sets.used(process_sets.find_process_set(process_set)):
            facts = basics.rank, basics.size, basics.local_rank, basics.local_size
            return [numpy.int32(facts[fact]())]

    return _run(None, [], [tf.int32], [tf.TensorShape([])], compute, {})[0]
