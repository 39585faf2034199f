"""The primitives that bring JAX's arrays into libscalecom, as calls of XLA's foreign function interface.

Every call has one and the same *ordered effect*. JAX makes a chain of tokens of it through all calls
of a program, in the order in which it was traced, also into inner functions and loops. XLA may change the
order of what does not depend on each other and start it together; a token is what each call needs of the
one before. So the calls run one after the other, in the order in which Python met them, and so do programs:
scalecom.jax.programs. On a GPU that is the order in which they are enqueued: on one stream, by one thread
after the other.
"""

import ctypes
import functools
import typing

import jax
import numpy
from jax._src import core, dispatch, effects
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from scalecom import _library, basics
from scalecom.jax import programs

_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier",
          "identity")
# Those whose results are made in their arguments' memory, of which XLA makes copies where it has to.
# So is an all-reduce in a compiled function, where nobody else needs a gradient; alone it would be copied.
_IN_PLACE = ("broadcast", "identity")
# What XLA calls a platform, JAX's name of it, and the beginning of its handlers' names.
_PLATFORMS = (("cpu", "cpu", "scalecom_jax_"), ("CUDA", "cuda", "scalecom_jax_cuda_"))


class _Communication(effects.Effect):
    """What every collective does."""

    # In JAX's own refusal of a computation over several devices.
    __str__ = __repr__ = lambda self: "communication of scalecom: start a process for each device"

    def __hash__(self):
        return hash(_Communication)

    def __eq__(self, other):
        return type(other) is _Communication


_communication = _Communication()
for _kinds in (effects.ordered_effects, effects.lowerable_effects,
               effects.control_flow_allowed_effects, effects.custom_derivatives_allowed_effects,
               effects.remat_allowed_effects):
    _kinds.add_type(_Communication)
programs.keep_chains_inside(_communication)


def _forget(tokens, key):
    """Waits for a token, and drops it. Returns whether its program ended well."""
    try:
        tokens.pop(key).block_until_ready()
        return True
    except RuntimeError:  # The program's results raise it.
        return False


def begin_chain():
    """Waits for the chain of tokens that goes through this thread's programs, if one does, and begins a new one.
    Where a collective of it failed, so did all that were dispatched behind it, by its token."""
    chains, outcomes = (dispatch.runtime_tokens.current_tokens,
                        dispatch.runtime_tokens.output_runtime_tokens)
    if _communication in chains and not _forget(chains, _communication):
        for device in list(outcomes):
            _forget(outcomes, device)


def finish():
    """Waits until the collectives are done that this thread has dispatched."""
    begin_chain()
    programs.wait_for_dispatched()


basics.add_finisher(finish)


def _load():
    path = str(_library.prefix() / "lib" / "libscalecom_jax.so")
    try:
        # It finds libscalecom.so by its name: the one that is loaded.
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"scalecom's library for JAX cannot be loaded: {error}. Install the package "
                          "again: pip install .") from error
    for platform, _, prefix in _PLATFORMS:
        for kind in _KINDS:
            handler = jax.ffi.pycapsule(getattr(library, f"{prefix}{kind}"))
            jax.ffi.register_ffi_target(f"scalecom_jax_{kind}", handler, platform=platform)
    return library


_handlers = _load()


class Reduction(typing.NamedTuple):
    """How the next `count` arrays of a call are reduced, as one group. options: the
    bytes of C's, or None."""
    op: int
    prescale: float
    postscale: float
    options: object
    count: int

    def to_bytes(self):
        reduction = _library.Reduction(self.op, self.prescale, self.postscale)
        if self.options is not None:
            reduction.compression = _library.CompressionOptions.from_buffer_copy(self.options)
        return bytes(reduction)


def _join(texts):
    return numpy.frombuffer(b"".join(texts), numpy.uint8)


def _numbers(values):
    return numpy.array(values, numpy.int64)


def _attributes(process_set, names=(), reductions=None, **numbers):
    """What a handler reads: bytes, and whole numbers."""
    attributes = {name: _numbers(value) for name, value in numbers.items()}
    attributes["process_set"] = _numbers([process_set.process_set_id])
    if names:
        attributes["names"] = _join(name.encode() + b"\0" for name in names)
    if reductions is not None:
        attributes["reductions"] = _join(reduction.to_bytes() for reduction in reductions)
        attributes["counts"] = _numbers([reduction.count for reduction in reductions])
    return attributes


def _lowering(kind):
    def lower(context, *operands, results, begins=(), in_place=kind in _IN_PLACE, **parameters):
        del begins  # Of the gradient only.
        token = context.tokens_in.get(_communication)
        with_token = context.replace(avals_in=[core.abstract_token, *context.avals_in],
                                     avals_out=[core.abstract_token, *context.avals_out])
        places = range(1, len(operands) + 1) if in_place else ()
        call = jax.ffi.ffi_lowering(f"scalecom_jax_{kind}", has_side_effect=True,
                                    operand_output_aliases={place: place for place in places})
        token, *arrays = call(with_token, token, *operands, **_attributes(**parameters))
        context.set_tokens_out(context.tokens_in.update_tokens(
            mlir.TokenSet({_communication: token})))
        return arrays

    return lower


def _refuse_platform(name, platform):
    def refuse(*_, **__):
        raise NotImplementedError(f"{name} works on JAX's platforms CPU and CUDA, and this computation "
                                  f"is for {platform}: set JAX_PLATFORMS=cpu, or place the arrays on "
                                  "jax.devices('cpu')[0]")

    return refuse


def _make_primitive(kind):
    primitive = Primitive(f"scalecom_{kind}")
    primitive.multiple_results = True

    @primitive.def_effectful_abstract_eval
    def describe(*_, results, **__):
        return [jax.core.ShapedArray(shape, dtype) for shape, dtype in results], {_communication}

    @functools.partial(jax.jit, static_argnames=("parameters", "number"))
    def bind(*arrays, parameters, number):
        del number  # It is compiled in, and is another when a set was removed and added again.
        return primitive.bind(*arrays, **dict(parameters))

    @primitive.def_impl
    def run(*arrays, **parameters):
        begin_chain()  # On all ranks alike a failure ends here, not where each learns of it.
        with jax.disable_jit(False):  # A handler is called by compiled programs alone.
            return bind(*arrays, parameters=tuple(parameters.items()),
                        number=parameters["process_set"].process_set_id)

    def refuse_batch(*_, **__):
        raise NotImplementedError(f"{kind} cannot be mapped by jax.vmap: how often a rank calls it would "
                                  "depend on a shape; call it outside, on the whole batch")

    batching.primitive_batchers[primitive] = refuse_batch
    for _, platform, _ in _PLATFORMS:
        mlir.register_lowering(primitive, _lowering(kind), platform=platform)
    for platform in ("rocm", "tpu"):
        mlir.register_lowering(primitive, _refuse_platform(kind, platform), platform=platform)
    return primitive


# Parameters of all of them: process_set; names, full ones of the arrays; results, their shapes and
# dtypes. Of an all-reduce also in_place.
all_reduce_p, all_gather_p, reduce_scatter_p, all_to_all_p, broadcast_p, barrier_p, identity_p = map(
    _make_primitive, _KINDS)


def is_compiled(array):
    """Whether it is of a function that is being compiled. Derivatives outside of jit are taken of values."""
    while hasattr(array, "primal"):
        array = array.primal
    return isinstance(array, jax.core.Tracer)


def is_outside_of_programs():
    """Whether a call now is done at once, and not traced into a program."""
    return core.trace_state_clean()


def _same(arrays):
    return tuple((array.shape, array.dtype) for array in arrays)


def all_reduce(process_set, names, arrays, reductions):
    """The reduced arrays. reductions: a Reduction for those in turn that are one group."""
    return all_reduce_p.bind(*arrays, process_set=process_set, names=tuple(names),
                             results=_same(arrays), reductions=tuple(reductions),
                             in_place=any(map(is_compiled, arrays)))


def all_gather(process_set, names, arrays, rows, begins):
    """The ranks' arrays, concatenated. rows: of each result. begins: the row of it where this rank's
    array begins."""
    return all_gather_p.bind(*arrays, process_set=process_set, names=tuple(names), results=tuple(
        ((count, *array.shape[1:]), array.dtype) for count, array in zip(rows, arrays)),
        begins=tuple(begins))


def cut(rows, process_set):
    """(begin, end) of this rank's part of so many rows, as a reduce-scatter cuts them."""
    share, left_over = divmod(rows, process_set.size())
    place = process_set.rank()
    begin = place * share + min(place, left_over)
    return begin, begin + share + (place < left_over)


def reduce_scatter(process_set, names, arrays, reduction):
    """This rank's parts of the reduced arrays. reduction: a Reduction, of all of them."""
    results = []
    for array in arrays:
        begin, end = cut(array.shape[0], process_set)
        results.append(((end - begin, *array.shape[1:]), array.dtype))
    return reduce_scatter_p.bind(*arrays, process_set=process_set, names=tuple(names),
                                 results=tuple(results), reductions=(reduction,))


def all_to_all(process_set, name, array, splits, received_splits):
    """What the ranks gave to this one, received_splits[p] rows from p, which gets splits[p] rows."""
    (rows,) = all_to_all_p.bind(array, process_set=process_set, names=(name,),
                                results=(((sum(received_splits), *array.shape[1:]), array.dtype),),
                                splits=tuple(splits), received_splits=tuple(received_splits))
    return rows


def broadcast(process_set, names, arrays, root):
    """The arrays of the rank at that place of the set."""
    return broadcast_p.bind(*arrays, process_set=process_set, names=tuple(names),
                            results=_same(arrays), root=(root,))


def barrier(process_set):
    """Nothing comes before every rank of the set has come here."""
    barrier_p.bind(process_set=process_set, results=())


def identity(process_set, arrays):
    """The arrays: what a call costs in which no rank waits for another."""
    return identity_p.bind(*arrays, process_set=process_set, results=_same(arrays))
