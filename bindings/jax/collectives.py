"""The collectives on JAX's arrays, inside and outside of jax.jit.

They return new arrays. All ranks call the same ones in the same order; see scalecom.jax.primitives for
how that order stays in a compiled program. Wrong arguments raise ValueError at the call; what goes
wrong between ranks raises jax.errors.JaxRuntimeError where the result is waited for.

A name identifies a tensor across ranks. Inside jit it is fixed when the function is traced: without one,
calls are numbered in the order in which they are traced, so each call of the compiled function
uses the same names. Outside, calls without a name are matched by their order.
"""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy

from scalecom import _library, arrays as host_arrays, basics, reductions, scalecom_options
from scalecom.jax import primitives
from scalecom.jax.compression import Compression, check_compression
from scalecom.process_sets import count_call, global_process_set
from scalecom.reductions import Adasum, Average, Max, Min, Product, Sum

def choose_op(average, op):
    op = reductions.choose_op(average, op)
    if op not in (Average, Sum, Adasum, Min, Max, Product):
        reductions.raise_bad_op(op)
    return op


def _full_name(kind, name, arrays):
    if name is None:
        # One at a time is in flight: outside of jit one name serves all, and is compiled once.
        is_traced = any(isinstance(array, jax.core.Tracer) for array in arrays)
        number = count_call(global_process_set, kind) if is_traced else "now"
        return f"{kind}.noname.{number}"
    if "\0" in str(name):
        raise ValueError(f"name is {name!r}; a name cannot hold a zero byte")
    return f"{kind}.{name}"


def _member_names(full, count):
    return tuple(f"{full}.{place}" for place in range(count))


def _array(tensor):
    array = jnp.asarray(tensor)
    if array.dtype not in _DTYPES:
        raise ValueError(f"dtype {array.dtype} is not supported; allowed are "
                         f"{', '.join(map(str, _DTYPES))}")
    return array


_DTYPES = [jnp.dtype(kind) for kind in (
    jnp.uint8, jnp.int8, jnp.int16, jnp.int32, jnp.int64, jnp.float16, jnp.float32, jnp.float64,
    jnp.bool_, jnp.bfloat16)]


class Plan(typing.NamedTuple):
    """How arrays are reduced, fixed when it is traced."""
    names: tuple  # full ones
    op: int
    prescale: float
    postscale: float
    options: tuple  # of each array: C options, or None


def _run_plan(plan, arrays):
    """Reduces arrays of any shapes and dtypes: one submit for each kind of compression."""
    kinds = list(dict.fromkeys(plan.options))
    reductions = {}
    for kind in kinds:
        reductions[kind] = _library.Reduction(plan.op, plan.prescale, plan.postscale)
        if kind is not None:
            reductions[kind].compression = kind
    order = sorted(range(len(arrays)), key=lambda place: kinds.index(plan.options[place]))
    reduced = primitives.all_reduce([arrays[place] for place in order],
                                    [plan.names[place].encode() for place in order],
                                    [reductions[plan.options[place]] for place in order])
    return tuple(array for _, array in sorted(zip(order, reduced), key=lambda pair: pair[0]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce(plan, arrays):
    return _run_plan(plan, arrays)


def _reduce_forward(plan, arrays):
    return _run_plan(plan, arrays), None


def _reduce_backward(plan, _, gradients):
    """The gradient of a sum, an average or an Adasum is the same reduction of the gradients."""
    if plan.op not in (Average, Sum, Adasum):
        raise NotImplementedError("an allreduce is differentiable for Average, Sum and Adasum only")
    gradients = list(gradients)
    # Those of integers have no values.
    places = [place for place, gradient in enumerate(gradients) if gradient.dtype in _DTYPES]
    if places:
        reduced = _run_plan(Plan(tuple(f"{plan.names[place]}.gradient" for place in places), plan.op,
                                 plan.prescale, plan.postscale, (None,) * len(places)),
                            [gradients[place] for place in places])
        for place, gradient in zip(places, reduced):
            gradients[place] = gradient
    return (tuple(gradients),)


_reduce.defvjp(_reduce_forward, _reduce_backward)


def reduce_all(arrays, names, op, prescale_factor, postscale_factor, compression, options):
    """The reduced arrays, in their order. names: full ones. options: C options of each."""
    if not arrays:
        return ()
    wires, contexts = zip(*map(compression.compress, arrays))
    plan = Plan(tuple(names), op, float(prescale_factor), float(postscale_factor), tuple(options))
    return tuple(map(compression.decompress, _reduce(plan, wires), contexts))


def _options_of(compression, name):
    check_compression(compression)
    return scalecom_options.options_of(compression, name, "a tensor needs a name: its residual is")


def allreduce(tensor, average=None, name=None, compression=Compression.none, op=None,
              prescale_factor=1.0, postscale_factor=1.0):
    """The reduction of `tensor` over all ranks. Differentiable for Average, Sum and Adasum.

    op: Average (default), Sum, Adasum (of floating-point arrays), Min, Max or Product. Each rank's values are multiplied by
    prescale_factor before, the result by postscale_factor. With Compression.scalecom(...) one call
    is one step of ScaleCom for the tensor of this name.
    """
    array = _array(tensor)
    return reduce_all([array], [_full_name("allreduce", name, [array])], choose_op(average, op),
                      prescale_factor, postscale_factor, compression,
                      [_options_of(compression, name)])[0]


def grouped_allreduce(tensors, average=None, name=None, compression=Compression.none, op=None,
                      prescale_factor=1.0, postscale_factor=1.0):
    """The reductions of all arrays of a pytree, as a pytree of the same structure. Differentiable.

    The arguments are those of allreduce and hold for every array; shapes and dtypes may differ. It is
    one call of XLA and one submit, however many they are.
    """
    leaves, structure = jax.tree_util.tree_flatten(tensors)
    arrays = list(map(_array, leaves))
    names = _member_names(_full_name("allreduce", name, arrays), len(arrays))
    reduced = reduce_all(arrays, names, choose_op(average, op), prescale_factor, postscale_factor,
                         compression, [_options_of(compression, name)] * len(arrays))
    return jax.tree_util.tree_unflatten(structure, reduced)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(name, array):
    (gathered,) = primitives.all_gather([array], [name.encode()], basics.size())
    return gathered.reshape(-1, *array.shape[1:])


def _gather_forward(name, array):
    return _gather(name, array), None


def _gather_backward(name, _, gradient):
    """This rank's part of the averaged gradients."""
    (reduced,) = _average([gradient], [f"{name}.gradient"])
    rows = gradient.shape[0] // basics.size()
    return (reduced[basics.rank() * rows:(basics.rank() + 1) * rows],)


def _average(arrays, names):
    return _run_plan(Plan(tuple(names), Average, 1.0, 1.0, (None,) * len(arrays)), arrays)


_gather.defvjp(_gather_forward, _gather_backward)


def allgather(tensor, name=None):
    """The ranks' arrays, concatenated along the first dimension. Differentiable.

    All ranks give arrays of one shape: in JAX a result's shape is known before its values. Where they
    differ, every rank gets an error that names the shapes.
    """
    array = _array(tensor)
    if array.ndim == 0:
        raise ValueError("a scalar cannot be gathered; give it one dimension")
    return _gather(_full_name("allgather", name, [array]), array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _send(names, root, arrays):
    return tuple(primitives.broadcast(arrays, [name.encode() for name in names], root))


def _send_forward(names, root, arrays):
    return _send(names, root, arrays), None


def _send_backward(names, root, _, gradients):
    """The averaged gradients on the root, zeros elsewhere."""
    reduced = _average(gradients, [f"{name}.gradient" for name in names])
    return (reduced if basics.rank() == root else tuple(map(jnp.zeros_like, reduced)),)


_send.defvjp(_send_forward, _send_backward)


def broadcast(tensor, root_rank, name=None):
    """The array of root_rank, on every rank. Differentiable."""
    array = _array(tensor)
    return _send((_full_name("broadcast", name, [array]),), host_arrays.checked_root(root_rank), (array,))[0]


def broadcast_parameters(params, root_rank=0):
    """root_rank's values of all arrays of a pytree, as a pytree of the same structure; other leaves
    stay as they are. Its structure, shapes and dtypes are the same on every rank."""
    leaves, structure = jax.tree_util.tree_flatten(params)
    places = [place for place, leaf in enumerate(leaves)
              if isinstance(leaf, (jax.Array, numpy.ndarray))]
    arrays = tuple(_array(leaves[place]) for place in places)
    if arrays:
        names = _member_names(_full_name("broadcast", "parameters", arrays), len(arrays))
        for place, array in zip(places, _send(names, host_arrays.checked_root(root_rank), arrays)):
            leaves[place] = array
    return jax.tree_util.tree_unflatten(structure, leaves)


def barrier():
    """Returns when every rank has called it, and what this thread has dispatched before is done."""
    jax.effects_barrier()
    host_arrays.barrier()
