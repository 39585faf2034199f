"""The collectives on TensorFlow's tensors: eagerly, in a tf.function and in a graph; differentiable.

A name identifies a tensor across ranks and may be in flight once. Without one an operation of a graph
has its name there, and an eager one is counted: ranks make the same calls in the same order.
process_set: the ranks that take part and whose number an average divides by; all by default. A root
is a rank of the job in each of them.

Errors when an operation runs: FailedPreconditionError on every rank where the ranks disagree (shape,
dtype, op, root), and before init(); InvalidArgumentError for what is wrong on this rank alone;
UnavailableError where a rank is lost, AbortedError where the session ends. ValueError at the call for
Python's arguments. device_dense and device_sparse are Horovod's; the operations are the CPU's. So is
ignore_name_scope: a name is what it is here.
"""

import functools
import operator

import tensorflow as tf

from scalecom import basics
from scalecom.compression import check_compression, check_uniform, options_of
from scalecom.process_sets import global_process_set
from scalecom.process_sets import join as _join
from scalecom.process_sets import ranks_by_number
from scalecom.reductions import Average, Sum, choose_op, word_of
from scalecom.tensorflow import gradients, operations  # noqa: F401 (registers the derivatives)
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.operations import describe_reduction, name_group, name_one


def _tensor(value):
    # For what is one already TensorFlow takes microseconds to find that out.
    if isinstance(value, tf.Tensor):
        return value
    if isinstance(value, tf.IndexedSlices):
        raise NotImplementedError("tf.IndexedSlices are taken by allreduce and grouped_allreduce only: call "
                                  "tf.convert_to_tensor() first")
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise NotImplementedError(f"the tensor is a tf.{type(value).__name__}, which no collective takes: call its "
                                  "to_tensor(), or tf.sparse.to_dense(), first, or gather its parts one by one")
    return tf.convert_to_tensor(value)


def _as_list(tensors):
    if isinstance(tensors, (tf.Tensor, tf.Variable, tf.IndexedSlices, tf.RaggedTensor, tf.SparseTensor)):
        raise ValueError("tensors is one tensor; a list of tensors is needed")
    return list(tensors)


def _converted(tensors):
    return [_tensor(tensor) for tensor in _as_list(tensors)]


@functools.lru_cache(maxsize=1 << 12, typed=True)
def _checked_once(average, op, compression, name, prescale_factor, postscale_factor, priority):
    op = choose_op(average, op)
    options = options_of(compression, name, "a tensor needs a name: its residual is")
    return [describe_reduction(op, prescale_factor, postscale_factor, options, priority)]


def _reduction_of(*arguments):
    """The reduction of an allreduce, as an operation takes it: in a loop calls have the same arguments."""
    try:
        return _checked_once(*arguments)
    except TypeError:  # What has no hash is wrong, and the check says so.
        return _checked_once.__wrapped__(*arguments)


def allreduce(tensor, average=None, device_dense="", device_sparse="",
              compression=Compression.none, op=None, prescale_factor=1.0, postscale_factor=1.0,
              name=None, process_set=global_process_set, ignore_name_scope=False, *, priority=0):
    """The reduction of `tensor` over all ranks.

    tensor: of a shape and dtype that all ranks give: uint8, int8 to int64, float16, bfloat16, float32, float64 or bool
    (not averaged). op: Average (default; of integers what is behind the point is cut off), Sum, Adasum (of floating-point tensors), Min, Max or Product. Each rank's
    values are multiplied by prescale_factor before, the result by postscale_factor.
    tf.IndexedSlices give tf.IndexedSlices with all ranks' rows, for Average and Sum, uncompressed;
    NotImplementedError else. With Compression.scalecom(...) one run is one step of ScaleCom for the
    tensor of this name. priority: among tensors that all ranks have submitted, those of a higher
    one go first. average: Horovod's former word for op, True for Average and False for Sum.
    """
    if isinstance(tensor, tf.IndexedSlices):
        check_compression(compression)
        return reduce_slices([tensor], [name], choose_op(average, op), prescale_factor * postscale_factor,
                             process_set)[0]
    reductions = _reduction_of(average, op, compression, name, prescale_factor, postscale_factor, priority)
    wire, context = compression.compress(_tensor(tensor))
    reduced, = operations.all_reduce([wire], name_one("allreduce", name, process_set), process_set, reductions)
    return compression.decompress(reduced, context)


def reduce_slices(slices, names, op, factor, process_set):
    """Sums or averages of tf.IndexedSlices, as all ranks' rows: one all-gather of all of them.
    names: one for each; None counts."""
    if op not in (Average, Sum):
        raise NotImplementedError(
            f"op is {word_of(op)}; tf.IndexedSlices are reduced by Average or Sum only: call "
            "tf.convert_to_tensor() first, or use sparse_as_dense=True")
    if None in names:
        gather_names = name_group("allreduce.slices", None, process_set)
    else:
        gather_names = operations.Names("allgather.", [f"{name}.{part}" for name in names
                                                       for part in ("values", "indices")])
    parts = operations.all_gather(
        [part for one in slices for part in (one.values, one.indices)], gather_names, process_set)
    if op == Average:
        factor = factor / operations.size_when_run(process_set, tf.float64)
    return [tf.IndexedSlices(_scaled(values, factor), indices, dense_shape=one.dense_shape)
            for one, values, indices in zip(slices, parts[::2], parts[1::2])]


def reduce_mixed(tensors, names, op, factor, process_set, reduce_dense):
    """The reductions, in their order: what reduce_dense(places) returns for those that are dense, and
    reduce_slices() for those that are not. names: one for each, or None."""
    results = list(tensors)
    sparse = [place for place, tensor in enumerate(tensors) if isinstance(tensor, tf.IndexedSlices)]
    dense = [place for place in range(len(results)) if place not in set(sparse)] if sparse else range(len(results))
    if sparse:  # First, as they refuse an op before anything is submitted.
        reduced = reduce_slices([tensors[place] for place in sparse], [names[place] for place in sparse], op,
                                factor, process_set)
        for place, one in zip(sparse, reduced):
            results[place] = one
    if dense:
        for place, one in zip(dense, reduce_dense(dense)):
            results[place] = one
    return results


def _scaled(values, factor):
    """Integers as in other reductions: in double precision, and what is behind the point cut off."""
    if isinstance(factor, float) and factor == 1.0:
        return values
    if values.dtype.is_integer:
        return tf.cast(tf.cast(values, tf.float64) * factor, values.dtype)
    return values * tf.cast(factor, values.dtype)


def grouped_allreduce(tensors, average=None, device_dense="", device_sparse="",
                      compression=Compression.none, op=None, prescale_factor=1.0,
                      postscale_factor=1.0, process_set=global_process_set, ignore_name_scope=False,
                      name=None, *, priority=0):
    """The reductions of `tensors` over all ranks, as a list: one submit, all or none, and one of an
    all-gather for what is tf.IndexedSlices. The arguments are those of allreduce and hold for every tensor;
    shapes and dtypes may differ. The member at place i is the tensor `name`.i."""
    op = choose_op(average, op)
    options = options_of(compression, name, "a group needs a name: the residuals are")
    tensors = _as_list(tensors)

    def reduce_dense(places):
        wires, contexts = zip(*(compression.compress(_tensor(tensors[place])) for place in places))
        is_all = name is None or len(places) == len(tensors)
        names = (name_group("allreduce", name, process_set) if is_all else
                 operations.Names(f"allreduce.{name}", [f".{place}" for place in places]))
        reduced = operations.all_reduce(
            list(wires), names, process_set,
            [describe_reduction(op, prescale_factor, postscale_factor, options, priority)])
        return map(compression.decompress, reduced, contexts)

    names = [None if name is None else f"{name}.{place}" for place in range(len(tensors))]
    return reduce_mixed(tensors, names, op, prescale_factor * postscale_factor, process_set, reduce_dense)


def allgather(tensor, name=None, ignore_name_scope=False, process_set=global_process_set):
    """The ranks' tensors, concatenated along the first dimension, which may differ."""
    gathered, = operations.all_gather([_tensor(tensor)],
                                      name_one("allgather", name, process_set), process_set)
    return gathered


def grouped_allgather(tensors, name=None, ignore_name_scope=False,
                      process_set=global_process_set):
    """allgather of each of `tensors`, as a list."""
    tensors = _converted(tensors)
    return operations.all_gather(tensors, name_group("allgather", name, process_set),
                                 process_set) if tensors else []


def place_of(root_rank, process_set):
    """What the process set calls that rank of the job."""
    try:
        root = operator.index(root_rank)
    except TypeError:
        raise ValueError(f"root_rank is {root_rank!r}; it must be a whole number") from None
    return root if process_set is global_process_set else process_set.place_of(root)


def broadcast(tensor, root_rank, name=None, ignore_name_scope=False,
              process_set=global_process_set):
    """root_rank's tensor, on every rank."""
    copy, = operations.broadcast([_tensor(tensor)],
                                 name_one("broadcast", name, process_set), process_set,
                                 place_of(root_rank, process_set))
    return copy


def broadcast_(variables, root_rank, name=None, process_set=global_process_set):
    """Gives `variables` root_rank's values, on every rank: one operation. Returns them; in a graph of
    tf.compat.v1 the assignments, to be run."""
    variables, assigned = list(variables), []
    if variables:
        values = operations.broadcast(
            [_tensor(variable) for variable in variables],
            name_group("broadcast", name, process_set), process_set,
            place_of(root_rank, process_set))
        assigned = [variable.assign(value) for variable, value in zip(variables, values)]
    return variables if tf.compat.v1.executing_eagerly_outside_functions() else assigned


def alltoall(tensor, splits=None, name=None, ignore_name_scope=False,
             process_set=global_process_set):
    """Gives splits[p] rows of `tensor` to rank p, and returns the rows that the ranks gave to this
    one, in rank order.

    splits: whole numbers, one for each rank, that add up to the first dimension; with them the
    result is (rows, received_splits), where received_splits[p] rows came from rank p, as int32.
    Without them every rank gets as many rows, and the first dimension must be a multiple of the
    world size.
    """
    numbers = tf.zeros([0], tf.int64) if splits is None else tf.convert_to_tensor(splits)
    if not numbers.dtype.is_integer:
        raise ValueError(f"splits is {splits!r}; it must be whole numbers, one for each rank")
    numbers = tf.cast(numbers, tf.int64)
    received, received_splits = operations.all_to_all(
        _tensor(tensor), numbers, name_one("alltoall", name, process_set), process_set)
    return received if splits is None else (received, tf.cast(received_splits, tf.int32))


def reducescatter(tensor, device_dense="", compression=Compression.none, op=Average, name=None,
                  process_set=global_process_set, ignore_name_scope=False, prescale_factor=1.0,
                  postscale_factor=1.0):
    """This rank's part of the reduction of `tensor` over all ranks.

    The first dimension is cut in rank order as evenly as can be; the first ranks get the rows that
    are left over. op, prescale_factor and postscale_factor as in allreduce.
    """
    return _reduce_scatter([tensor], name_one("reducescatter", name, process_set), compression, op,
                           process_set, prescale_factor, postscale_factor)[0]


def grouped_reducescatter(tensors, device_dense="", compression=Compression.none, op=Average,
                          process_set=global_process_set, prescale_factor=1.0,
                          postscale_factor=1.0, name=None):
    """reducescatter of each of `tensors`, as a list."""
    return _reduce_scatter(tensors, name_group("reducescatter", name, process_set), compression, op,
                           process_set, prescale_factor, postscale_factor) if tensors else []


def _reduce_scatter(tensors, names, compression, op, process_set, prescale_factor,
                    postscale_factor):
    check_uniform(compression)
    reduction = describe_reduction(choose_op(None, op), prescale_factor, postscale_factor)
    wires, contexts = zip(*map(compression.compress, _converted(tensors)))
    parts = operations.reduce_scatter(list(wires), names, process_set, reduction)
    return list(map(compression.decompress, parts, contexts))


def barrier(process_set=global_process_set):
    """Ends when every rank has come to it."""
    return operations.barrier(process_set)


def join():
    """As an int32 tensor, the last rank to join; see scalecom.process_sets.join. For eager code: a
    graph's operations run when they like. A gradient of tf.IndexedSlices has no rows of this rank."""
    if not tf.executing_eagerly():
        raise NotImplementedError("join waits for all ranks, which a graph cannot; call it outside of "
                                  "tf.function")
    return tf.constant(_join(), tf.int32)


def rank_op(name=None):
    """rank() when it runs, as an int32 tensor: right also where a graph outlives a change of ranks."""
    return operations.fact(operations.RANK, name=name)


def local_rank_op(name=None):
    """local_rank() when it runs, as an int32 tensor."""
    return operations.fact(operations.LOCAL_RANK, name=name)


def local_size_op(name=None):
    """local_size() when it runs, as an int32 tensor."""
    return operations.fact(operations.LOCAL_SIZE, name=name)


def size_op(process_set_id=0, name=None):
    """The number of ranks in a process set when it runs, as an int32 tensor; on a rank outside of
    the set, when it is called."""
    ranks = ranks_by_number().get(process_set_id) if process_set_id else None
    if ranks is not None and basics.rank() not in ranks:
        return tf.constant(len(ranks), tf.int32, name=name or "size")
    return operations.fact(operations.SIZE, process_set_id, name)


def process_set_included_op(process_set_id=0, name=None):
    """1 where this rank is in that process set when it runs, else 0, as an int32 tensor."""
    return operations.fact(operations.INCLUDED, process_set_id, name)


