"""Claims about scalecom.jax on a GPU: the order of work there, and that it computes what the CPU does; and about how
programs are dispatched. Each function is called on every rank, in this order. On the CPU, which has no streams, they
hold too."""

import functools
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy
import pytest
from jax.experimental import io_callback

import scalecom.jax as hvd

COUNT = 1 << 18
LIMIT_S = 20.0


def _is_gpu():
    return jax.default_backend() != "cpu"


def _total():
    return float(sum(rank + 1 for rank in range(hvd.size())))


def _late(x, turns=40, extent=2048):
    """x, on a GPU some 20 ms later: who reads too early finds something else there."""
    extent = extent if _is_gpu() else 16
    matrix = jnp.full((extent, extent), 1.0 / extent) * x.ravel()[0] / x.ravel()[0]
    for _ in range(turns):
        matrix = matrix @ matrix
    return x * jnp.round(matrix[0].sum())


def results_are_where_their_operands_are():
    devices = list(dict.fromkeys([jax.devices()[0], jax.devices("cpu")[0]]))
    for device in 2 * devices:
        mine = jax.device_put(jnp.full((hvd.size(), 3), hvd.rank() + 1.0), device)
        for call in (hvd.allreduce, hvd.allgather, hvd.reducescatter, hvd.alltoall,
                     functools.partial(hvd.broadcast, root_rank=0)):
            assert call(mine).devices() == jax.jit(call)(mine).devices() == {device}, (call, device)


def _place_total(x):
    return hvd.allreduce(x, name="moved", op=hvd.Sum)


def programs_on_a_device_and_on_the_cpu_are_one_chain():
    run = jax.jit(_place_total)
    mine = jnp.full(3, hvd.rank() + 1.0)
    placed = [jax.device_put(mine, device)
              for device in (jax.devices()[0], jax.devices("cpu")[0], jax.devices()[0])]
    for _ in range(2):
        for result in [run(array) for array in placed]:
            assert result.tolist() == [_total()] * 3


def each_collective_reads_what_is_late_and_is_read_when_it_is_there():
    size, rank = hvd.size(), hvd.rank()

    @jax.jit
    def run(x):
        total = hvd.allreduce(_late(x), op=hvd.Sum)
        everything = hvd.allgather(_late(2.0 * total))
        part = hvd.reducescatter(_late(everything), op=hvd.Sum)
        sent = hvd.broadcast(_late(part + rank), 0)
        swapped = hvd.alltoall(_late(sent))
        grouped = hvd.grouped_allreduce([_late(swapped), -swapped], op=hvd.Max)
        return total, everything, part, sent, swapped, *grouped

    mine = jnp.full(size * COUNT, rank + 1.0)
    outcomes = [run(mine) for _ in range(4)]  # Dispatched, not waited for.
    part = 2.0 * size * _total()
    for outcome in outcomes:
        for place, wanted in enumerate((_total(), 2.0 * _total(), part, part, part, part, -part)):
            values = numpy.asarray(outcome[place])
            assert (values == wanted).all(), (place, wanted, values)


def arguments_of_a_program_stay_as_they_are():
    """Though the broadcast's result is made in its argument's memory."""
    mine = jnp.full(COUNT, hvd.rank() + 1.0)
    sent, kept = jax.jit(lambda x: (hvd.broadcast(_late(x), 0), 2.0 * x))(mine)
    again = jax.jit(lambda x: hvd.broadcast(x, 0))(mine)
    assert (sent == 1.0).all() and (again == 1.0).all()
    assert (mine == hvd.rank() + 1.0).all() and (kept == 2.0 * (hvd.rank() + 1.0)).all()


def what_is_reduced_in_its_own_memory_stays_as_it_was_for_others():
    @jax.jit
    def step(given):
        own, shared = given * 2, given * 3
        sums = hvd.grouped_allreduce([own, shared, shared, given, jnp.full(7, 5.0)], op=hvd.Sum)
        return sums, hvd.allreduce(shared * 2, op=hvd.Sum), shared, given

    given = jnp.full(5000, hvd.rank() + 1.0)
    for _ in range(2):
        sums, doubled, shared, same = step(given)
        for value, wanted in zip(sums, (2 * _total(), 3 * _total(), 3 * _total(), _total(), 5 * hvd.size())):
            assert set(value.tolist()) == {wanted}
        assert set(doubled.tolist()) == {6 * _total()}
        assert set((shared / 3).tolist()) == set(same.tolist()) == set(given.tolist()) == {hvd.rank() + 1.0}


def _python_functions_of(call):
    called = set()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_code.co_name) if event == "call" else None)
    try:
        call()
    finally:
        sys.setprofile(None)
    return called


def without_a_gpu_python_takes_no_part_in_the_call_of_a_compiled_program():
    table = numpy.arange(5000.0, dtype=numpy.float32)

    @functools.partial(jax.jit, donate_argnums=2)
    def step(x, unused, old):
        total = hvd.allreduce(x + table, name="inside", op=hvd.Sum)
        return total, x, old + hvd.allreduce(total, name="inside", op=hvd.Max)

    mine = jnp.full(5000, hvd.rank() + 1.0)
    old = [jnp.ones(5000) for _ in range(3)]
    step(mine, None, old[0])
    assert ("cache_miss" in _python_functions_of(lambda: step(mine, None, old[1]))) == _is_gpu()
    total, same, new = step(mine, mine, old[2])
    assert (total == _total() + hvd.size() * table).all() and (new == total + 1).all()
    assert (same == mine).all() and all(one.is_deleted() for one in old)


def a_program_with_effects_of_others_has_them():
    seen = []

    @jax.jit
    def step(x):
        total = hvd.allreduce(x, name="seen", op=hvd.Sum)
        io_callback(lambda value: seen.append(float(value[0])), None, total, ordered=True)
        return hvd.allreduce(total, name="seen", op=hvd.Max)

    for place in range(3):
        step(jnp.full(2, place + hvd.rank() + 1.0))
    jax.effects_barrier()
    assert seen == [_total() + place * hvd.size() for place in range(3)]


def a_checkpoint_repeats_no_collective():
    def gradient_of(layer):
        return jax.jit(jax.grad(lambda w: layer(w, layer(w, jnp.arange(3.0) + hvd.rank())).sum()))

    def layer(weights, x):
        return jnp.tanh(hvd.allreduce(weights @ x, name="layer"))

    weights = jnp.arange(9.0).reshape(3, 3) / 10.0
    wanted = gradient_of(layer)(weights)
    checkpointed = gradient_of(jax.checkpoint(layer))
    checkpointed(weights).block_until_ready()
    before = hvd.stats()["tensors_completed"]
    assert jnp.allclose(checkpointed(weights), wanted, rtol=1e-5)
    assert hvd.stats()["tensors_completed"] - before == 4  # Two forward, two back.


def memory_is_used_again_behind_what_works_on_it():
    """A donated argument, and results that are dropped while they are made."""
    @functools.partial(jax.jit, donate_argnums=0)
    def step(parameters, batch):
        return parameters - 0.5 * hvd.allreduce(parameters - batch, name="step")

    parameters = jnp.zeros(COUNT)
    batch = _late(jnp.full(COUNT, hvd.rank() + 1.0))
    drop = jax.jit(lambda x: hvd.allgather(x, name="dropped"))
    for _ in range(20):
        drop(parameters)
        parameters = step(parameters, batch)
    wanted = _total() / hvd.size() * (1.0 - 0.5**20)
    assert jnp.allclose(parameters, wanted, rtol=1e-5), (parameters, wanted)


def a_collective_is_enqueued_before_its_operand_is_there():
    if not _is_gpu() or os.environ.get("SCALECOM_CUDA_COLLECTIVES") == "host":
        return  # The host's collectives need the values.
    run = jax.jit(lambda x: hvd.allreduce(_late(x, 100, 4096), name="late", op=hvd.Sum))
    mine = jnp.full(COUNT, hvd.rank() + 1.0)
    run(mine).block_until_ready()
    before = hvd.stats()["tensors_completed"]
    result = run(mine)
    deadline = time.monotonic() + LIMIT_S
    while hvd.stats()["tensors_completed"] == before:
        assert time.monotonic() < deadline, "the collective has not been enqueued"
    assert not result.is_ready()
    assert (result == _total()).all()


def scalecom_computes_on_a_device_what_it_does_on_the_cpu():
    compression = hvd.Compression.scalecom(8)
    devices = {"device": jax.devices()[0], "cpu": jax.devices("cpu")[0]}
    run = {name: jax.jit(lambda x, name=name: hvd.allreduce(x, name=f"weights.{name}",
                                                            compression=compression))
           for name in devices}
    data = numpy.random.default_rng(hvd.rank())
    for step in range(6):
        gradient = data.normal(size=(64, 64)).astype(numpy.float32)
        found, wanted = (numpy.asarray(run[name](jax.device_put(gradient, device)))
                         for name, device in devices.items())
        assert numpy.count_nonzero(found) == numpy.count_nonzero(wanted)
        assert numpy.allclose(found, wanted, rtol=1e-5, atol=1e-6), step


def what_a_device_cannot_do_is_an_error_and_the_next_call_works():
    if not _is_gpu():
        return
    reduce = lambda x: hvd.allreduce(x, op=hvd.Adasum)
    for call in (reduce, jax.jit(reduce)):
        with pytest.raises(jax.errors.JaxRuntimeError, match="Adasum combines tensors in the host"):
            jax.block_until_ready(call(jnp.ones(2)))
        assert hvd.allreduce(jnp.ones(2), op=hvd.Sum).tolist() == [hvd.size()] * 2
