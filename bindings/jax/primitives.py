"""The primitives that bring JAX's arrays into libscalecom, as calls of XLA's foreign function interface.

Every call has one and the same *ordered effect*. JAX makes a chain of tokens of it through all calls
of a program, in the order in which it was traced, also into inner functions and loops, and from each
program to the next. XLA may change the order of what does not depend on each other and start it
together; a token is what each call needs of the one before. So the calls run one after the other,
in the order in which Python met them.
"""

import ctypes
import functools

import jax
import numpy
from jax._src import effects
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from scalecom import _library

_TARGETS = ("scalecom_jax_all_reduce", "scalecom_jax_all_gather", "scalecom_jax_broadcast")


class _Communication(effects.Effect):
    """What every collective does."""

    __str__ = __repr__ = lambda self: "Communication"

    def __hash__(self):
        return hash(_Communication)

    def __eq__(self, other):
        return type(other) is _Communication


_communication = _Communication()
for _kinds in (effects.ordered_effects, effects.lowerable_effects,
               effects.control_flow_allowed_effects, effects.custom_derivatives_allowed_effects):
    _kinds.add_type(_Communication)


def _load():
    path = str(_library.prefix() / "lib" / "libscalecom_jax.so")
    try:
        # It finds libscalecom.so by its name: the one that is loaded.
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"scalecom's library for JAX cannot be loaded: {error}. Install the package "
                          "again: pip install .") from error
    for target in _TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)),
                                    platform="cpu")
    return library


_handlers = _load()


def _attribute(value):
    """As the handlers take it: bytes, or whole numbers."""
    return numpy.frombuffer(value, numpy.uint8) if isinstance(value, bytes) else numpy.array(
        value, numpy.int64)


def _lowering(target):
    def lower(context, *operands, results, **attributes):
        token = context.tokens_in.get(_communication)
        with_token = context.replace(avals_in=[jax.core.abstract_token, *context.avals_in],
                                     avals_out=[jax.core.abstract_token, *context.avals_out])
        call = jax.ffi.ffi_lowering(target, has_side_effect=True)
        token, *arrays = call(with_token, token, *operands,
                              **{name: _attribute(value) for name, value in attributes.items()})
        context.set_tokens_out(context.tokens_in.update_tokens(
            mlir.TokenSet({_communication: token})))
        return arrays

    return lower


def _refuse_platform(name, platform):
    def refuse(*_, **__):
        raise NotImplementedError(f"{name} works on JAX's CPU platform only, for now, and this "
                                  f"computation is for {platform}: set JAX_PLATFORMS=cpu, or place the "
                                  "arrays on jax.devices('cpu')[0]")

    return refuse


def _make_primitive(name):
    primitive = Primitive(f"scalecom_{name}")
    primitive.multiple_results = True

    @primitive.def_effectful_abstract_eval
    def describe(*_, results, **__):
        return [jax.core.ShapedArray(shape, dtype) for shape, dtype in results], {_communication}

    @functools.partial(jax.jit, static_argnames="parameters")
    def bind(*arrays, parameters):
        return primitive.bind(*arrays, **dict(parameters))

    @primitive.def_impl
    def run(*arrays, **parameters):
        return bind(*arrays, parameters=tuple(parameters.items()))

    def refuse_batch(*_, **__):
        raise NotImplementedError(f"{name} cannot be mapped by jax.vmap: how often a rank calls it would "
                                  "depend on a shape; call it outside, on the whole batch")

    batching.primitive_batchers[primitive] = refuse_batch
    mlir.register_lowering(primitive, _lowering(f"scalecom_jax_{name}"), platform="cpu")
    for platform in ("cuda", "rocm", "tpu"):
        mlir.register_lowering(primitive, _refuse_platform(name, platform), platform=platform)
    return primitive


_all_reduce = _make_primitive("all_reduce")
_all_gather = _make_primitive("all_gather")
_broadcast = _make_primitive("broadcast")


def _join(names):
    return b"".join(name + b"\0" for name in names)


def _same(arrays):
    return tuple((array.shape, array.dtype) for array in arrays)


def all_reduce(arrays, names, reductions):
    """The reduced arrays. names: full ones. reductions: a _library.Reduction for each; those in turn
    that are one object are submitted as one group."""
    groups, counts = [], []
    for reduction in reductions:
        if groups and groups[-1] is reduction:
            counts[-1] += 1
        else:
            groups.append(reduction)
            counts.append(1)
    return _all_reduce.bind(*arrays, results=_same(arrays), names=_join(names),
                            reductions=b"".join(map(bytes, groups)), counts=tuple(counts))


def all_gather(arrays, names, ranks):
    """Of each array [...] the ranks' ones, [ranks, ...]: they have one shape."""
    rows = [array.reshape(1, *array.shape) for array in arrays]
    return _all_gather.bind(*rows, names=_join(names), results=tuple(
        ((ranks, *row.shape[1:]), row.dtype) for row in rows))


def broadcast(arrays, names, root):
    """root's arrays."""
    return _broadcast.bind(*arrays, results=_same(arrays), names=_join(names), root=(root,))
