"""What the collectives are to jax.jvp and jax.grad.

The tangent of a linear collective is the same one of the tangents. Backwards it is what Horovod has:
an all-reduce of an all-reduce; this rank's part of the averaged gradients of a gather; the averaged gradients
on the root of a broadcast, zeros elsewhere; of a reduce-scatter a gather, of an all-to-all the way back.
An Adasum is treated as a sum is, also by Horovod's definition: it is not the derivative.
"""

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from scalecom.jax import primitives
from scalecom.reductions import Adasum, Average, Sum

_TANGENT = ".tangent"


def _without_compression(parameters, allowed, words):
    reduction = parameters["reductions"][0]
    if reduction.op not in allowed:
        raise NotImplementedError(f"{words} only")
    return reduction._replace(options=None, count=len(parameters["names"]))


def _linear_reduction(parameters):
    return {"reductions": (_without_compression(
        parameters, (Average, Sum, Adasum), "an allreduce is differentiable for Average, Sum and Adasum"),)}


def _linear_scatter(parameters):
    return {"reductions": (_without_compression(
        parameters, (Average, Sum), "a reducescatter is differentiable for Average and Sum"),)}


def _average(process_set, names, arrays):
    return primitives.all_reduce(process_set, names, arrays,
                                 [primitives.Reduction(Average, 1.0, 1.0, None, len(arrays))])


def _of_all_reduce(gradients, shapes, process_set, names, reductions, in_place):
    del shapes, in_place
    (reduction,) = reductions
    return primitives.all_reduce(process_set, names, gradients,
                                 [reduction._replace(count=len(gradients))])


def _of_all_gather(gradients, shapes, process_set, names, begins):
    return [whole[begin:begin + shape[0]] for whole, begin, shape in zip(
        _average(process_set, names, gradients), begins, shapes)]


def _of_reduce_scatter(gradients, shapes, process_set, names, reductions):
    op, prescale, postscale, *_ = reductions[0]
    factor = prescale * postscale * (process_set.size() if op == Sum else 1)
    rows = [shape[0] for shape in shapes]
    return primitives.all_gather(
        process_set, names, [(gradient * factor).astype(gradient.dtype) for gradient in gradients],
        rows, [primitives.cut(count, process_set)[0] for count in rows])


def _of_all_to_all(gradients, shapes, process_set, names, splits, received_splits):
    del shapes
    return [primitives.all_to_all(process_set, names[0], gradients[0], received_splits, splits)]


def _of_broadcast(gradients, shapes, process_set, names, root):
    del shapes
    reduced = _average(process_set, names, gradients)
    return reduced if process_set.rank() == root[0] else list(map(jnp.zeros_like, reduced))


def _of_identity(gradients, shapes, process_set):
    del shapes
    return primitives.identity(process_set, gradients)


def _is_zero(tangent):
    return type(tangent) is ad.Zero or tangent.dtype == jax.dtypes.float0


def _chosen(parameters, places, rename):
    """The parameters of a call with the arrays at these places alone."""
    chosen = {name: tuple(parameters[name][place] for place in places)
              for name in ("results", "begins") if name in parameters}
    if "names" in parameters:
        chosen["names"] = tuple(rename(parameters["names"][place]) for place in places)
    return {**parameters, **chosen}


def _to_tangent(name):
    return name + _TANGENT


def _to_gradient(name):
    return name.removesuffix(_TANGENT) + ".gradient"


def _register(primitive, backward, linear=None):
    def jvp(arrays, tangents, **parameters):
        results = primitive.bind(*arrays, **parameters)
        out = [ad.Zero(jax.typeof(result).to_tangent_aval()) for result in results]
        places = [place for place, tangent in enumerate(tangents) if not _is_zero(tangent)]
        if places:
            chosen = _chosen(parameters, places, _to_tangent)
            chosen.update(linear(chosen) if linear else {})
            moved = primitive.bind(*(ad.instantiate_zeros(tangents[place]) for place in places),
                                   **chosen)
            for place, tangent in zip(places, moved):
                out[place] = tangent
        return results, out

    def transpose(gradients, *arrays, **parameters):
        out = [ad.Zero(array.aval) if ad.is_undefined_primal(array) else None for array in arrays]
        places = [place for place, gradient in enumerate(gradients)
                  if not _is_zero(gradient) and out[place] is not None]
        if places:
            chosen = _chosen(parameters, places, _to_gradient)
            del chosen["results"]
            shapes = [arrays[place].aval.shape for place in places]
            for place, gradient in zip(places, backward([gradients[place] for place in places], shapes,
                                                        **chosen)):
                out[place] = gradient
        return out

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


_register(primitives.all_reduce_p, _of_all_reduce, _linear_reduction)
_register(primitives.all_gather_p, _of_all_gather)
_register(primitives.reduce_scatter_p, _of_reduce_scatter, _linear_scatter)
_register(primitives.all_to_all_p, _of_all_to_all)
_register(primitives.broadcast_p, _of_broadcast)
_register(primitives.identity_p, _of_identity)
