"""The collectives on JAX's arrays, inside and outside of jax.jit.

They return new arrays. All ranks call the same ones in the same order; see scalecom.jax.primitives for
how that order stays in a compiled program. Wrong arguments raise ValueError at the call; what goes wrong
between ranks, or is refused when the operation runs, as an average of bools, raises jax.errors.JaxRuntimeError
where the result is waited for.

A name identifies a tensor across ranks. Inside jit it is fixed when the function is traced: without one,
calls are numbered in the order in which they are traced, so each call of the compiled function
uses the same names. Outside, calls without a name are matched by their order.

What needs the result of a collective that failed fails with it. A call outside of jit is submitted whether
what was dispatched before it failed or not: so all ranks go on at the same call.

process_set: the ranks that take part and whose number an average divides by; all by default. A root
is a rank of the job in each of them. Inside jit it is fixed when the function is traced.

All of them have derivatives, see scalecom.jax.gradients.
"""

import operator

import jax
import jax.numpy as jnp
import numpy

from scalecom import arrays as host_arrays, basics, reductions
from scalecom._library import DTYPES
from scalecom.compression import check_uniform, options_of
from scalecom.jax import gradients, primitives  # noqa: F401 (registers the derivatives)
from scalecom.jax.compression import Compression
from scalecom.process_sets import call_by_number, current, used
from scalecom.reductions import Adasum, Average, Max, Min, Product, Sum


_DTYPES = dict.fromkeys(map(jnp.dtype, DTYPES))


def choose_op(average, op):
    op = reductions.choose_op(average, op)
    if op not in (Average, Sum, Adasum, Min, Max, Product):
        reductions.raise_bad_op(op)
    return op


def checked_set(process_set):
    """That set, or all ranks for None. ValueError where it is not in use or without this rank."""
    with used(process_set):
        return current()


def full_name(kind, name):
    """The name that the ranks know. ValueError for one with a zero byte."""
    if "\0" in str(name):
        raise ValueError(f"name is {name!r}; a name cannot hold a zero byte")
    return f"{kind}.{name}"


def _with_name(process_set, kind, name, arrays, call):
    """call(full name) of an operation on the arrays."""
    if name is None and any(map(primitives.is_compiled, arrays)):
        return call_by_number(process_set, kind, lambda number: call(f"{kind}.noname.{number}"))
    # Outside of jit one at a time is in flight: one name serves all, and is compiled once.
    return call(full_name(kind, "noname.now" if name is None else name))


def _member_names(full, count):
    return [f"{full}.{place}" for place in range(count)]


def as_array(tensor):
    """ValueError for what is not an array, and for a dtype that does not travel."""
    try:
        # For what is one already JAX takes microseconds to find that out.
        array = tensor if isinstance(tensor, jax.Array) else jnp.asarray(tensor)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the tensor is a {type(tensor).__name__}, of which JAX makes no array ({error}); allowed "
                         "are arrays, numbers and lists of these; for a pytree of arrays call the grouped_ "
                         "function, and allgather_object or broadcast_object for other objects") from error
    if array.dtype not in _DTYPES:
        raise ValueError(f"dtype {array.dtype} is not supported; allowed are "
                         f"{', '.join(map(str, _DTYPES))}")
    return array


def _rows_of(tensor, verb):
    array = as_array(tensor)
    if array.ndim == 0:
        raise ValueError(f"a scalar cannot be {verb}; give it one dimension")
    return array


def _of_leaves(tensors, make, process_set, kind, name, call):
    """Of a pytree: that of what call(arrays, full names) gives for the arrays that make() makes of its
    leaves."""
    leaves, structure = jax.tree_util.tree_flatten(tensors)
    arrays = list(map(make, leaves))
    return jax.tree_util.tree_unflatten(structure, _with_name(
        process_set, kind, name, arrays, lambda full: call(arrays, _member_names(full, len(arrays)))))


def reduce_all(arrays, names, op, prescale_factor, postscale_factor, compression, options,
               process_set):
    """The reduced arrays, in their order: one submit for each kind of compression. names: full ones.
    options: C options of each."""
    if not arrays:
        return ()
    wires, contexts = zip(*map(compression.compress, arrays))
    # By what they are, not by who they are: the same ones compile once.
    options = [None if kind is None else bytes(kind) for kind in options]
    kinds = list(dict.fromkeys(options))
    order = sorted(range(len(arrays)), key=lambda place: kinds.index(options[place]))
    reduced = primitives.all_reduce(
        process_set, [names[place] for place in order], [wires[place] for place in order],
        [primitives.Reduction(op, float(prescale_factor), float(postscale_factor), kind,
                              options.count(kind)) for kind in kinds])
    in_order = [wire for _, wire in sorted(zip(order, reduced), key=lambda pair: pair[0])]
    return tuple(map(compression.decompress, in_order, contexts))


def _options_of(compression, name):
    return options_of(compression, name, "a tensor needs a name: its residual is")


def allreduce(tensor, average=None, name=None, compression=Compression.none, op=None,
              prescale_factor=1.0, postscale_factor=1.0, process_set=None):
    """The reduction of `tensor` over all ranks. Differentiable for Average, Sum and Adasum.

    tensor: an array, a number or a list of these, of a shape and dtype that all ranks give: uint8, int8 to int64,
    float16, bfloat16, float32, float64 or bool (not averaged). op: Average (default; of integers what is behind the
    point is cut off), Sum, Adasum (of floating-point arrays), Min, Max or Product. Each rank's
    values are multiplied by prescale_factor before, the result by postscale_factor. With
    Compression.scalecom(...) one call is one step of ScaleCom for the tensor of this name. average: Horovod's
    former word for op, True for Average and False for Sum.
    """
    process_set = checked_set(process_set)
    array = as_array(tensor)
    return _with_name(process_set, "allreduce", name, [array], lambda full: reduce_all(
        [array], [full], choose_op(average, op), prescale_factor, postscale_factor, compression,
        [_options_of(compression, name)], process_set))[0]


def grouped_allreduce(tensors, average=None, name=None, compression=Compression.none, op=None,
                      prescale_factor=1.0, postscale_factor=1.0, process_set=None):
    """The reductions of all arrays of a pytree, as a pytree of the same structure. Differentiable.

    The arguments are those of allreduce and hold for every array; shapes and dtypes may differ. It is
    one call of XLA and one submit, however many they are.
    """
    process_set = checked_set(process_set)
    return _of_leaves(tensors, as_array, process_set, "allreduce", name, lambda arrays, names: reduce_all(
        arrays, names, choose_op(average, op), prescale_factor, postscale_factor, compression,
        [_options_of(compression, name)] * len(arrays), process_set))


def _gather(process_set, names, arrays):
    if not arrays:
        return ()
    # A dimension of its own: who gives another number of rows is found out.
    ranks, place = process_set.size(), process_set.rank()
    gathered = primitives.all_gather(process_set, names,
                                     [array.reshape(1, *array.shape) for array in arrays],
                                     [ranks] * len(arrays), [place] * len(arrays))
    return [whole.reshape(ranks * array.shape[0], *array.shape[1:])
            for whole, array in zip(gathered, arrays)]


def allgather(tensor, name=None, process_set=None):
    """The ranks' arrays, concatenated along the first dimension. Differentiable.

    All ranks give arrays of one shape: in JAX a result's shape is known before its values. Where they
    differ, every rank gets an error that names the shapes.
    """
    process_set = checked_set(process_set)
    array = _rows_of(tensor, "gathered")
    return _with_name(process_set, "allgather", name, [array],
                      lambda full: _gather(process_set, [full], [array]))[0]


def grouped_allgather(tensors, name=None, process_set=None):
    """The allgather of each array of a pytree, as a pytree of the same structure. Differentiable."""
    process_set = checked_set(process_set)
    return _of_leaves(tensors, lambda leaf: _rows_of(leaf, "gathered"), process_set, "allgather", name,
                      lambda arrays, names: _gather(process_set, names, arrays))


def _scatter(process_set, names, arrays, op, prescale_factor, postscale_factor, compression):
    op = choose_op(None, op)
    check_uniform(compression)
    if not arrays:
        return ()
    wires, contexts = zip(*map(compression.compress, arrays))
    reduction = primitives.Reduction(op, float(prescale_factor), float(postscale_factor), None,
                                     len(wires))
    parts = primitives.reduce_scatter(process_set, names, wires, reduction)
    return list(map(compression.decompress, parts, contexts))


def reducescatter(tensor, name=None, compression=Compression.none, op=Average, process_set=None,
                  prescale_factor=1.0, postscale_factor=1.0):
    """This rank's part of the reduction of `tensor` over all ranks. Differentiable for Average and Sum.

    The first dimension is cut in rank order as evenly as can be; the first ranks get the rows that
    are left over. op, prescale_factor and postscale_factor as in allreduce.
    """
    process_set = checked_set(process_set)
    array = _rows_of(tensor, "scattered")
    return _with_name(process_set, "reducescatter", name, [array], lambda full: _scatter(
        process_set, [full], [array], op, prescale_factor, postscale_factor, compression))[0]


def grouped_reducescatter(tensors, name=None, compression=Compression.none, op=Average,
                          process_set=None, prescale_factor=1.0, postscale_factor=1.0):
    """The reducescatter of each array of a pytree, as a pytree of the same structure. Differentiable."""
    process_set = checked_set(process_set)
    return _of_leaves(
        tensors, lambda leaf: _rows_of(leaf, "scattered"), process_set, "reducescatter", name,
        lambda arrays, names: _scatter(process_set, names, arrays, op, prescale_factor, postscale_factor,
                                       compression))


def _row_numbers(argument, values, ranks, rows=None):
    """Whole numbers, one for each rank, that add up to `rows`."""
    if isinstance(values, jax.core.Tracer):
        raise ValueError(f"{argument} is traced; inside jit it must be known when the function is "
                         "traced: close over it, or make it a static argument")
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        numbers = None
    if numbers is None or len(numbers) != ranks or min(numbers, default=0) < 0 or (
            rows is not None and sum(numbers) != rows):
        raise ValueError(f"{argument} is {values!r}; it must be {ranks} whole numbers, one for each "
                         f"rank" + ("" if rows is None else f", that add up to {rows} rows"))
    return numbers


def _ask(process_set, question, *arguments):
    """What question(*arguments) of scalecom.arrays answers in the set; what was dispatched before comes before it."""
    primitives.finish()
    with used(process_set):
        return question(*arguments)


def alltoall(tensor, splits=None, name=None, process_set=None, received_splits=None):
    """Gives splits[p] rows of `tensor` to rank p, and returns the rows that the ranks gave to this
    one, in rank order. Differentiable.

    splits: whole numbers, one for each rank, that add up to the first dimension; with them the
    result is (rows, received_splits), where received_splits[p] rows, as int32, came from rank p. Without them
    every rank gets as many rows, and the first dimension must be a multiple of the world size. Inside
    jit, where the shape of the result is needed before its values, received_splits has to be given,
    too; outside, ranks that leave it out ask each other, all or none of them.
    """
    process_set = checked_set(process_set)
    array = _rows_of(tensor, "exchanged")
    return _with_name(process_set, "alltoall", name, [array],
                      lambda full: _exchange(process_set, full, array, splits, received_splits))


def _exchange(process_set, full, array, splits, received_splits):
    ranks, rows = process_set.size(), array.shape[0]
    if splits is None:
        if rows % ranks != 0 or received_splits is not None:
            raise ValueError(f"splits is None; then the first dimension, {rows}, must be a multiple of "
                             f"{ranks} ranks and received_splits is left out")
        equal = [rows // ranks] * ranks
        return primitives.all_to_all(process_set, full, array, equal, equal)
    splits = _row_numbers("splits", splits, ranks, rows)
    if received_splits is not None:
        received = _row_numbers("received_splits", received_splits, ranks)
    elif isinstance(array, jax.core.Tracer):
        raise ValueError("received_splits is None; with splits it is needed inside jit and its like: how "
                         "many rows each rank gives to this one")
    else:
        everyone = _ask(process_set, host_arrays.all_gather, f"{full}.splits", numpy.array([splits]))
        received = everyone[:, process_set.rank()].tolist()
    return (primitives.all_to_all(process_set, full, array, splits, received),
            jnp.array(received, jnp.int32))


def _root_of(process_set, root_rank):
    """What the set calls that rank of the job."""
    basics.rank()  # Raises ValueError before init(), when no set has ranks.
    try:
        return process_set.place_of(operator.index(root_rank))
    except (TypeError, ValueError):
        raise ValueError(f"root_rank is {root_rank!r}; allowed are {process_set.ranks}") from None


def broadcast(tensor, root_rank, name=None, process_set=None):
    """The array of root_rank, on every rank. Differentiable."""
    process_set = checked_set(process_set)
    array = as_array(tensor)
    return _with_name(process_set, "broadcast", name, [array], lambda full: primitives.broadcast(
        process_set, [full], [array], _root_of(process_set, root_rank)))[0]


def broadcast_parameters(params, root_rank=0, process_set=None):
    """root_rank's values of all arrays of a pytree, as a pytree of the same structure; other leaves
    stay as they are. Its structure, shapes and dtypes are the same on every rank: outside of jit
    HorovodInternalError on every rank where they have different numbers of arrays."""
    process_set = checked_set(process_set)
    leaves, structure = jax.tree_util.tree_flatten(params)
    places = [place for place, leaf in enumerate(leaves)
              if isinstance(leaf, (jax.Array, numpy.ndarray))]
    arrays = [as_array(leaves[place]) for place in places]
    if primitives.is_outside_of_programs():
        _ask(process_set, host_arrays.check_counts, len(arrays), "arrays of the pytree")
    if arrays:
        names = _member_names("broadcast.parameters", len(arrays))
        sent = primitives.broadcast(process_set, names, arrays, _root_of(process_set, root_rank))
        for place, array in zip(places, sent):
            leaves[place] = array
    return jax.tree_util.tree_unflatten(structure, leaves)


def barrier(process_set=None):
    """Returns when every rank of the set has called it, and what this thread has dispatched before is
    done. Inside jit it is a step of the program: the collectives that follow wait for all ranks."""
    primitives.barrier(checked_set(process_set))
    jax.effects_barrier()
