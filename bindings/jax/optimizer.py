"""Gradient transformations for optax."""

import jax

from scalecom.jax.collectives import Average, Sum, reduce_all
from scalecom.jax.compression import Compression, ScaleComCompressor, check_compression


def _optax():
    try:
        import optax
    except ImportError as error:
        raise ImportError("this needs optax, which is not installed: pip install optax") from error
    return optax


def _name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


def distributed(compression=Compression.none, op=Average, gradient_predivide_factor=1.0,
                process_set=None):
    """An optax.GradientTransformation that reduces the gradients over all ranks, to be the first of
    optax.chain(). It works inside and outside of jax.jit.

    All gradients are one submit, two where ScaleCom compresses some of them. A tensor's name is its
    path in the pytree of the parameters, as "dense.kernel"; by it Compression.scalecom(rates=...)
    chooses, and residuals are kept by it in this process, not in the transformation's state. op: Average
    or Sum. gradient_predivide_factor: an average divides by it before the sum and by the rest after.
    process_set: the ranks that reduce; all by default.
    """
    optax = _optax()
    check_compression(compression)
    if op not in (Average, Sum):
        raise ValueError(f"op is {op!r}; gradients are reduced by Average or Sum")
    if gradient_predivide_factor != 1.0 and op != Average:
        raise ValueError("gradient_predivide_factor needs op=Average")

    def init(params):
        if isinstance(compression, ScaleComCompressor):
            paths = jax.tree_util.tree_leaves_with_path(params)
            compression.check_patterns([_name_of(path) for path, _ in paths])
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        paths, structure = jax.tree_util.tree_flatten_with_path(updates)
        names = [_name_of(path) for path, _ in paths]
        gradients = [gradient for _, gradient in paths]
        options = [compression.options_for(name, gradient.shape)
                   for name, gradient in zip(names, gradients)]
        reduced = reduce_all(gradients, [f"allreduce.{name}" for name in names], op,
                             1.0 / gradient_predivide_factor, gradient_predivide_factor,
                             compression, options, process_set)
        return jax.tree_util.tree_unflatten(structure, reduced), state

    return optax.GradientTransformation(init, update)


def DistributedOptimizer(optimizer, compression=Compression.none, op=Average,
                         gradient_predivide_factor=1.0, process_set=None):
    """`optimizer`, of optax, on gradients that are reduced over all ranks before each update; see
    distributed()."""
    return _optax().chain(distributed(compression, op, gradient_predivide_factor, process_set),
                          optimizer)
