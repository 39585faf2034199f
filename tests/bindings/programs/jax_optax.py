"""Claims about scalecom.jax with optax. Each function is called on every rank, in this order."""

import pickle

import jax
import jax.numpy as jnp
import numpy
import optax
import pytest

import scalecom.jax as hvd
from scalecom import residuals


def _train(transformation, steps, batch, part=None):
    """Parameters and loss after some steps of least squares, on `part` of each batch; by default this
    rank's."""
    data = numpy.random.default_rng(1)
    features = jnp.asarray(data.normal(size=(steps, batch, 64)), jnp.float32)
    targets = features @ jnp.asarray(data.normal(size=(64, 64)), jnp.float32)
    parameters = {"dense": {"kernel": jnp.zeros((64, 64)), "bias": jnp.zeros(64)}}
    state = transformation.init(parameters)

    def loss(parameters, x, y):
        dense = parameters["dense"]
        return ((x @ dense["kernel"] + dense["bias"] - y) ** 2).mean()

    @jax.jit
    def step(parameters, state, x, y):
        gradients = jax.grad(loss)(parameters, x, y)
        updates, state = transformation.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    mine = part or slice(hvd.rank(), None, hvd.size())
    for x, y in zip(features, targets):
        parameters, state = step(parameters, state, x[mine], y[mine])
    return parameters, float(loss(parameters, features[-1], targets[-1]))


def paths_that_are_one_name_are_refused():
    twice = {"a": {"b": jnp.ones(2)}, "a.b": jnp.ones(2)}
    with pytest.raises(ValueError, match="several leaves of the path a.b"):
        hvd.DistributedOptimizer(optax.sgd(0.1)).update(twice, (optax.EmptyState(),) * 2)


def optax_trains_as_on_one_rank():
    batch = 12  # As much of it for each of 1, 2, 3 or 4 ranks.
    parameters, _ = _train(hvd.DistributedOptimizer(optax.sgd(0.1)), 5, batch)
    wanted, _ = _train(optax.sgd(0.1), 5, batch, slice(None))
    assert jnp.allclose(parameters["dense"]["kernel"], wanted["dense"]["kernel"], atol=1e-5)
    summed, _ = _train(hvd.DistributedOptimizer(optax.sgd(0.1 / hvd.size()), op=hvd.Sum), 5, batch)
    assert jnp.allclose(summed["dense"]["kernel"], parameters["dense"]["kernel"], atol=1e-5)


def scalecom_trains_and_keeps_the_ranks_equal():
    compression = hvd.Compression.scalecom(rate=8, rates={"dense.kernel": 8})
    before = hvd.stats()["data_bytes_sent"]
    parameters, loss = _train(optax.chain(hvd.distributed(compression), optax.sgd(1.0)), 110, 12)
    sent = hvd.stats()["data_bytes_sent"] - before
    _, dense_loss = _train(hvd.DistributedOptimizer(optax.sgd(1.0)), 60, 12)
    everything = hvd.allgather_object(numpy.asarray(parameters["dense"]["kernel"]).tobytes())
    assert len(set(everything)) == 1
    assert loss < 2.0 * dense_loss + 1.0, (loss, dense_loss)
    assert hvd.size() == 1 or sent < 60 * 4 * 64 * 64 / 2
    assert hvd.compression_stats()["dense.kernel"]["elements"] == 64 * 64
    with pytest.raises(ValueError, match="head"):
        hvd.distributed(hvd.Compression.scalecom(rates={"head*": 4})).init({"dense": jnp.ones(2)})


def a_thousand_gradients_are_one_batch():
    gradients = [jnp.full(3, float(place)) for place in range(1000)]
    transformation = hvd.distributed()
    update = jax.jit(lambda one: transformation.update(one, optax.EmptyState())[0])
    jax.block_until_ready(update(gradients))
    before = hvd.stats()
    reduced = jax.block_until_ready(update(gradients))
    after = hvd.stats()
    assert [float(one[0]) for one in reduced] == list(range(1000))
    assert after["tensors_completed"] - before["tensors_completed"] == 1000
    assert after["batches_executed"] - before["batches_executed"] <= 2


def residuals_travel_with_the_state_of_optax():
    transformation = hvd.distributed(hvd.Compression.scalecom(8))
    update = jax.jit(transformation.update)
    first = transformation.init({"saved": jnp.zeros((64, 64)), "bias": jnp.zeros(4)})

    def run(state, begin):
        seen = []
        for step in range(begin, begin + 3):
            key = jax.random.key(10 * step + hvd.rank())
            updates, state = update({"saved": jax.random.normal(key, (64, 64)), "bias": jnp.ones(4)},
                                    state)
            seen.append(updates["saved"])
        return jnp.stack(seen), state

    _, state = run(first, 0)
    saved = pickle.dumps((hvd.state_with_residuals((state, 1))))
    wanted, state = run(state, 3)
    assert (run(state, 3)[0] != wanted).any()
    restored, _ = hvd.restore_residuals(pickle.loads(saved))
    assert restored == state
    assert (run(restored, 3)[0] == wanted).all()
    assert jax.tree.structure((hvd.state_with_residuals(first), 1)) == jax.tree.structure(pickle.loads(saved))
    with pytest.raises(ValueError, match="state_with_residuals"):
        hvd.restore_residuals(state)
    other = pickle.loads(saved)[0]
    other.residuals["saved"], before = numpy.zeros((3, 3)), residuals.compression_steps()
    with pytest.raises(ValueError, match="another model"):
        hvd.restore_residuals((pickle.loads(saved)[0], other))
    assert residuals.compression_steps() == before


def models_of_one_structure_may_have_names_of_their_own():
    compression = hvd.Compression.scalecom(rate=8)

    def run(transformation, seed):
        gradients = {"turns": jax.random.normal(jax.random.key(seed), (64, 64))}
        return transformation.update(gradients, transformation.init(gradients))[0]["turns"]

    both = [hvd.distributed(compression, name=name) for name in ("actor.", "critic.")]
    kept = [run(one, seed) for seed in range(3) for one in both]
    assert {"actor.turns", "critic.turns"} <= residuals.compression_steps().keys()
    assert all((one == other).all() for one, other in zip(kept[::2], kept[1::2]))
    with pytest.raises(ValueError, match="name is 3"):
        hvd.DistributedOptimizer(optax.sgd(0.1), name=3)


def residuals_of_all_former_ranks_are_folded():
    transformation = hvd.distributed(hvd.Compression.scalecom(8))
    state = transformation.init({"folded": jnp.zeros((64, 64))})
    for step in range(3):
        gradient = jax.random.normal(jax.random.key(10 * step + hvd.rank()), (64, 64))
        _, state = transformation.update({"folded": gradient}, state)
    saved = hvd.allgather_object((hvd.state_with_residuals(state), 1))
    restored, _ = hvd.restore_residuals(hvd.fold_residuals(saved))
    mine = hvd.state_with_residuals(restored)
    wanted = numpy.mean([former.residuals["folded"] for former, _ in saved], axis=0)
    assert numpy.abs(wanted).max() > 0 and numpy.allclose(mine.residuals["folded"], wanted, atol=1e-6)
    assert mine.steps["folded"] == saved[0][0].steps["folded"] == 3
    for states in ([], [saved[0], ()]):
        with pytest.raises(ValueError, match=f"states has {len(states)} states"):
            hvd.fold_residuals(states)
