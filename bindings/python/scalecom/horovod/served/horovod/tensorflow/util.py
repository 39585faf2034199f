"""Served by scalecom."""

import functools

import tensorflow as tf


def _executing_eagerly():
    return tf.executing_eagerly()


def _make_subgraph(f):
    return tf.function(f)


def _cache(f):
    """f, called once for the same arguments, eagerly and in a graph."""
    kept = functools.lru_cache(maxsize=None)(lambda is_eager, *args: f(*args))
    return lambda *args: kept(_executing_eagerly(), *args)


def vars_to_refs(vars):
    """What can be a key in the place of variables: a tuple for a list of them."""
    if isinstance(vars, (list, tuple)):
        return tuple(vars_to_refs(one) for one in vars)
    return vars.ref()


def refs_to_vars(refs):
    """The variables again."""
    if isinstance(refs, (list, tuple)):
        return [refs_to_vars(one) for one in refs]
    return refs.deref()
