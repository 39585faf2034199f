"""The pages' blocks for JAX run as they are written. Each function is called on every rank of a job."""

import pickle

import jax
import jax.numpy as jnp
import optax
from programs.pages import run

import scalecom.jax as hvd


def _params():
    return {"dense": {"kernel": jnp.ones((32, 64)), "bias": jnp.zeros(64)}, "head": {"kernel": jnp.ones((64, 32))}}


def _loss(params, batch):
    hidden = batch @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jnp.mean(jnp.square(hidden @ params["head"]["kernel"]))


def a_compiled_step_trains():
    run("jax", 3, {"hvd": hvd, "jax": jax})  # Its GPU has to be known before the first array.
    values = run("jax", 0, {"params": _params(), "loss_function": _loss})
    params, state, loss = values["step"](values["params"], values["state"], jnp.ones((4, 32)))
    assert jax.tree.structure(params) == jax.tree.structure(_params()) and loss > 0


def residuals_are_saved_and_folded():
    params = _params()
    values = {"hvd": hvd, "optax": optax, "pickle": pickle, "params": params, "step": 1, "former_size": hvd.size()}
    run("jax", 1, values)
    gradients = jax.grad(_loss)(params, jnp.ones((4, 32)))
    _, values["state"] = values["optimizer"].update(gradients, values["optimizer"].init(params), params)
    run("jax", 2, values)
    hvd.barrier()
    run("checkpoints", 4, values)
    values["optimizer"].update(gradients, values["state"], values["params"])
