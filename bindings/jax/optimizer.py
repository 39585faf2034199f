"""Gradient transformations for optax."""

import collections
import dataclasses

import jax
import numpy

from scalecom import basics
from scalecom.arrays import residuals
from scalecom.compression import ScaleComCompressor, check_compression, gradient_options
from scalecom.jax.collectives import as_array, checked_set, full_name, reduce_all
from scalecom.jax.compression import Compression
from scalecom.process_sets import used
from scalecom.reductions import Average, Sum, check_predivide_factor, word_of


def _optax():
    try:
        import optax
    except ImportError as error:
        raise ImportError("this needs optax, which is not installed: pip install optax") from error
    return optax


def _paths_of(leaves):
    """The paths of pairs of path and leaf, as texts."""
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    twice = sorted(path for path, count in collections.Counter(paths).items() if count > 1)
    if twice:
        raise ValueError(f"the pytree has several leaves of the path {', '.join(twice)}: a key with a "
                         "point is like a step of the path; give keys without")
    return paths


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistributedState:
    """State of distributed() with ScaleCom. shapes: ((name, shape), ...) of what is compressed; the
    rest, by name, is empty but in what state_with_residuals() returns."""
    shapes: tuple = dataclasses.field(metadata={"static": True})
    residuals: dict = dataclasses.field(default_factory=dict)
    steps: dict = dataclasses.field(default_factory=dict)
    betas: dict = dataclasses.field(default_factory=dict)


def _is_ours(node):
    return isinstance(node, DistributedState)


def _change_ours(state, change):
    basics.finish_dispatched()
    return jax.tree_util.tree_map(lambda node: change(node) if _is_ours(node) else node, state,
                                  is_leaf=_is_ours)


def state_with_residuals(state, process_set=None):
    """A state of optax, with this rank's residuals in the part of distributed(), to be saved; each rank
    saves its own. Of one model it has one structure, whatever its steps: that of a first state is a
    template for what is loaded. process_set: that of distributed()."""
    def fill(node):
        found = residuals.model_state(dict(node.shapes))
        return DistributedState(
            node.shapes,
            {name: found["residuals"].get(name, numpy.zeros(shape, numpy.float32))
             for name, shape in node.shapes},
            {name: numpy.int64(found["steps"].get(name, 0)) for name, _ in node.shapes},
            {name: numpy.float64(found["betas"].get(name, 0.0)) for name, _ in node.shapes})

    with used(process_set):
        return _change_ours(state, fill)


def fold_residuals(states):
    """A state for every rank of a job of another size, as restore_residuals() takes it: `states` are those that
    state_with_residuals() gave all ranks of the former one at one moment, the result is the first of them with
    the mean of their residuals. With op=Sum they have to be multiplied besides by the former number of ranks over
    the present one. ValueError where they are not of one model and moment."""
    states = list(states)
    parts = [list(filter(_is_ours, jax.tree_util.tree_leaves(state, is_leaf=_is_ours))) for state in states]
    if not states or len(set(map(len, parts))) > 1:
        raise ValueError(f"states has {len(states)} states, with {list(map(len, parts))} parts of distributed(); give "
                         "what state_with_residuals() gave each rank of one job")
    folded = iter([residuals.fold({"residuals": node.residuals, "steps": node.steps, "betas": node.betas}
                                  for node in nodes) for nodes in zip(*parts)])

    def fill(node):
        return DistributedState(node.shapes, **next(folded))

    return _change_ours(states[0], fill)


def restore_residuals(state, process_set=None):
    """Makes this rank's residuals and steps those in a state of state_with_residuals(), and returns the state
    to go on with, without them. ValueError, and nothing is changed, where it has none, or those of another model."""
    basics.finish_dispatched()
    with used(process_set):
        loads = []  # All are looked at before the first is taken.
        for node in filter(_is_ours, jax.tree_util.tree_leaves(state, is_leaf=_is_ours)):
            if node.shapes and not node.residuals:
                raise ValueError("state holds no residuals; save what state_with_residuals(state) returns")
            loads.append(residuals.prepare_model_state(
                {"residuals": node.residuals, "steps": node.steps, "betas": node.betas},
                dict(node.shapes)))
        for load in loads:
            load()
        return _change_ours(state, lambda node: DistributedState(node.shapes))


def distributed(compression=Compression.none, op=Average, gradient_predivide_factor=1.0,
                process_set=None, name=""):
    """An optax.GradientTransformation that reduces the gradients over all ranks, to be the first of
    optax.chain(). It works inside and outside of jax.jit.

    All gradients are one submit, two where ScaleCom compresses some of them. A tensor's name is its
    path in the pytree of the parameters, as "dense.kernel"; by it Compression.scalecom(rates=...)
    chooses, and residuals are kept by it in this process; state_with_residuals() puts them into the state. op: Average
    or Sum. gradient_predivide_factor: an average divides by it before the sum and by the rest after.
    process_set: the ranks that reduce; all by default. name: is put before the paths, as "critic."; of two
    models with one structure that are compressed each needs its own, because residuals are kept by name.
    """
    optax = _optax()
    check_compression(compression)
    if op not in (Average, Sum):
        raise ValueError(f"op is {word_of(op)}; gradients are reduced by Average or Sum")
    check_predivide_factor(gradient_predivide_factor, op)
    if not isinstance(name, str):
        raise ValueError(f"name is {name!r}; a text is needed, which is put before the paths")

    def init(params):
        if not isinstance(compression, ScaleComCompressor):
            return optax.EmptyState()
        leaves = jax.tree_util.tree_leaves_with_path(params)
        paths = _paths_of(leaves)
        compression.check_patterns(paths)
        return DistributedState(tuple((name + path, leaf.shape) for path, (_, leaf) in zip(paths, leaves)
                                      if compression.options_for(path, leaf) is not None))

    def update(updates, state, params=None):
        del params
        leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
        paths = _paths_of(leaves)
        gradients = [as_array(gradient) for _, gradient in leaves]
        ranks = checked_set(process_set)
        options = [gradient_options(compression, path, gradient)
                   for path, gradient in zip(paths, gradients)]
        full = [full_name("allreduce", name + path) for path in paths]
        reduced = reduce_all(gradients, full, op, 1.0 / gradient_predivide_factor, gradient_predivide_factor,
                             compression, options, ranks)
        return jax.tree_util.tree_unflatten(structure, reduced), state

    return optax.GradientTransformation(init, update)


def DistributedOptimizer(optimizer, compression=Compression.none, op=Average,
                         gradient_predivide_factor=1.0, process_set=None, name=""):
    """`optimizer`, of optax, on gradients that are reduced over all ranks before each update; see
    distributed()."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"optimizer is {optimizer!r}; a gradient transformation of optax is needed, such as "
                         "optax.sgd(0.1)")
    return _optax().chain(distributed(compression, op, gradient_predivide_factor, process_set, name),
                          optimizer)
