"""The operations that bring TensorFlow's tensors into libscalecom.

They are those of libscalecom_tensorflow.so, asynchronous kernels on TensorFlow's C interface: none
holds a thread while it waits. Where a TensorFlow has not got that interface, or does not call back
as scalecom knows it, scalecom.tensorflow.blocking takes their place: Python functions that wait. Which
of the two it is gets chosen by a test at the first use, not before, since a script may still choose
devices and threads, which TensorFlow allows until something runs. `problem` says why it is the second,
None where it is the first.
"""

import functools
import logging
import re
import threading

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import control_flow_util

from scalecom import _library, process_sets

_SELF_TEST_LIMIT_S = 60.0
_choice_lock = threading.Lock()

# What an operation fails with, by the library's code; with InternalError for others.
ERRORS = {_library.MISMATCH: tf.errors.FailedPreconditionError, _library.SHUT_DOWN: tf.errors.AbortedError,
          _library.RANK_LOST: tf.errors.UnavailableError, _library.TIMED_OUT: tf.errors.DeadlineExceededError,
          _library.UNAVAILABLE: tf.errors.FailedPreconditionError}


def error_of(failure):
    """What an operation fails with, for a HorovodInternalError."""
    return ERRORS.get(failure.code, tf.errors.InternalError)(None, None, str(failure))


# Values of `fact` of the operation Fact.
RANK, SIZE, LOCAL_RANK, LOCAL_SIZE, INCLUDED = range(5)


def _load():
    """(operations, None), or (None, why not)."""
    path = _library.prefix() / "lib" / "libscalecom_tensorflow.so"
    try:
        loaded = tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        return None, f"{path} cannot be loaded: {error}"
    if not hasattr(loaded, "scalecom_self_test"):
        return None, f"TensorFlow {tf.__version__} lacks functions of the C interface for kernels"
    problem = _find_problem(loaded)
    return (None, problem) if problem else (loaded, None)


def _find_problem(loaded):
    """What is wrong with callbacks from another thread; None where nothing is."""
    results = []

    def test():
        try:
            with context.eager_mode():  # A script may have switched it off.
                number = tf.constant(21)
                results.append(int(loaded.scalecom_self_test(number)))
                in_graph = tf.function(lambda one: loaded.scalecom_self_test(one) + 1)
                results.append(int(in_graph(number)))
        except Exception as problem:
            results.append(problem)

    # It may never come back: a thread of its own is left behind then.
    thread = threading.Thread(target=test, name="scalecom-self-test", daemon=True)
    thread.start()
    thread.join(_SELF_TEST_LIMIT_S)
    if results == [42, 43]:
        return None
    return f"TensorFlow {tf.__version__} does not take callbacks as scalecom gives them: {results}"


@functools.lru_cache(maxsize=None)
def _chosen():
    loaded, why_not = _load()
    if loaded is not None:
        return loaded, None
    logging.getLogger("scalecom").warning(
        "operations wait in Python, on TensorFlow's threads, which is slower: %s", why_not)
    from scalecom.tensorflow import blocking
    return blocking, why_not


@functools.lru_cache(maxsize=None)
def _operations():
    with _choice_lock:
        return _chosen()[0]


def __getattr__(name):
    if name == "problem":
        with _choice_lock:
            return _chosen()[1]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_IN_GRAPH, _EAGERLY = -1, -2


# What an operation raises of which nothing was submitted.
_REFUSALS = tf.errors.InvalidArgumentError, TypeError, ValueError


class Names:
    """The names that the ranks know of an operation's tensors: the prefix, a point and the number of
    the call where that is 0 or more, and a suffix for each tensor; without suffixes a point and the
    tensor's place. call is -1 in a graph; eagerly, where the caller waits anyway, -2 without a number.
    counted: the kind of the calls by whose number each run is named, or None. Immutable."""

    def __init__(self, prefix, suffixes=(), call=None, counted=None):
        if "\0" in prefix + "".join(suffixes):
            raise ValueError(f"name is {prefix + ''.join(suffixes)!r}; a name cannot hold a zero byte")
        self.prefix = prefix
        self.suffixes = list(suffixes)
        self.call = call if call is not None else _EAGERLY if tf.executing_eagerly() else _IN_GRAPH
        self.counted = counted


_made_once = functools.lru_cache(maxsize=1 << 12)(Names)


def _name(suffixes, kind, name, process_set):
    """With a name: that. Else in a graph that of the operation there, which is the same on all ranks
    where they make the same graph; eagerly the number of the call."""
    _number_of(process_set)
    is_eager = tf.executing_eagerly()
    if name is not None:
        return _made_once(f"{kind}.{name}", suffixes, _EAGERLY if is_eager else _IN_GRAPH)
    if is_eager:
        return _made_once(f"{kind}.noname", suffixes, _EAGERLY, kind)
    graph = tf.compat.v1.get_default_graph()
    # Graphs of gradients have a number at the end, which need not be the same on all ranks.
    function = re.sub(r"_\d+$", "", getattr(graph, "name", "graph"))
    return Names(f"{kind}.{function}/{graph.unique_name(kind)}", suffixes)


# Of (kind, name, process_set), the Names of an operation: on one tensor; on several, `name`.0, `name`.1 and so on.
name_one = functools.partial(_name, ("",))
name_group = functools.partial(_name, ())


def check_compiler():
    """Raises NotImplementedError where a graph is being made for XLA, which cannot wait for others."""
    if tf.executing_eagerly():
        return
    graph = tf.compat.v1.get_default_graph()
    if control_flow_util.GraphOrParentsInXlaContext(graph):
        raise NotImplementedError(
            "scalecom's operations cannot be compiled by XLA: leave jit_compile=True out of this "
            "tf.function, give model.compile(jit_compile=False), or keep the collectives outside of "
            "what is compiled")


@functools.lru_cache(maxsize=1 << 10)
def describe_reduction(op, prescale_factor=1.0, postscale_factor=1.0, options=None, priority=0):
    """A reduction as an attribute: the members of scalecom_reduction in their order. options: of the
    C interface, or None."""
    options = options or _library.CompressionOptions()
    return " ".join(str(value) for value in (
        op, repr(float(prescale_factor)), repr(float(postscale_factor)), options.mode, options.rate,
        repr(options.beta), options.warmup_steps, options.values, repr(options.guard),
        options.ramp_steps, priority))


def _run(operation, names, process_set, **arguments):
    if names.call == _IN_GRAPH:
        check_compiler()

    def run(call):
        return operation(call=call, prefix=names.prefix, suffixes=names.suffixes,
                         process_set=_number_of(process_set), **arguments)

    if names.counted is None:
        return run(names.call)
    return process_sets.call_by_number(process_set, names.counted, run, _REFUSALS)


def _number_of(process_set):
    if process_set is process_sets.global_process_set:
        return 0
    process_sets.check_in_use(process_set)
    return process_set.process_set_id


def all_reduce(tensors, names, process_set, reductions):
    """The reductions of `tensors`, as a list: one submit. reductions: a description for each tensor,
    or one for all of them."""
    return _run(_operations().scalecom_all_reduce, names, process_set, tensors=tensors, reductions=reductions)


def _moved(tensors):
    """As they travel where nothing is computed: the library has no uint16, whose bits int16 has too."""
    return [tf.bitcast(tensor, tf.int16) if tensor.dtype == tf.uint16 else tensor
            for tensor in tensors]


def _arrived(results, tensors):
    return [tf.bitcast(result, tf.uint16) if tensor.dtype == tf.uint16 else result
            for result, tensor in zip(results, tensors)]


def all_gather(tensors, names, process_set):
    """For each tensor those of the ranks, one behind the other, as a list."""
    gathered = _run(_operations().scalecom_all_gather, names, process_set, tensors=_moved(tensors))
    return _arrived(_with_shapes(gathered, tensors), tensors)


def reduce_scatter(tensors, names, process_set, reduction):
    """This rank's part of the reduction of each tensor, as a list."""
    parts = _run(_operations().scalecom_reduce_scatter, names, process_set, tensors=tensors,
                 reductions=[reduction])
    return _with_shapes(parts, tensors)


def _with_shapes(results, tensors):
    """All dimensions but the first are known."""
    if not tf.executing_eagerly():
        for result, tensor in zip(results, tensors):
            if tensor.shape.rank:
                result.set_shape([None, *tensor.shape[1:]])
    return results


def broadcast(tensors, names, process_set, root):
    """The tensors of the rank at the place `root` of the process set, as a list."""
    return _arrived(_run(_operations().scalecom_broadcast, names, process_set, tensors=_moved(tensors),
                         root=root), tensors)


def all_to_all(rows, splits, names, process_set):
    """The rows that the ranks gave to this one, and how many each gave, as int64."""
    moved, = _moved([rows])
    received, received_splits = _run(_operations().scalecom_all_to_all, names, process_set, rows=moved,
                                     splits=splits)
    received, = _arrived(_with_shapes([received], [rows]), [rows])
    return received, received_splits


def barrier(process_set):
    """An operation that ends when every rank has come to it; None eagerly, where it has ended."""
    check_compiler()
    return _operations().scalecom_barrier(process_set=_number_of(process_set))


def fact(which, process_set_id=0, name=None):
    """What this rank is when the operation runs, as an int32 scalar."""
    return _operations().scalecom_fact(fact=which, process_set=process_set_id, name=name)


def size_when_run(process_set, dtype):
    """Ranks of a process set when the operation runs, as a scalar of `dtype`: right also where a graph
    outlives a change of ranks."""
    return tf.cast(fact(SIZE, process_set.process_set_id), dtype)


def rank_when_run(process_set):
    """This rank's place in a process set when the operation runs, as an int32 scalar."""
    return fact(RANK, process_set.process_set_id)
