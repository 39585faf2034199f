"""Claims about what scalecom.jax has dispatched when something fails or ends; on more than one rank. Its
programs take a while, so that they run behind Python."""

import functools

import jax
import jax.numpy as jnp
import pytest

import scalecom.jax as hvd
from scalecom.jax import primitives, programs


def _slowed(x):
    matrix = jnp.full((1024, 1024), 1.0 / 1024) * x[0] / x[0]
    for _ in range(3):
        matrix = matrix @ matrix
    return x * jnp.round(matrix[0].sum())


_step = jax.jit(lambda x: hvd.allreduce(_slowed(x), name="step"))
_step_without_result = jax.jit(lambda x: (hvd.allreduce(_slowed(x), name="step"), None)[1])
_add = jax.jit(lambda x: hvd.allreduce(_slowed(x), name="sum", op=hvd.Sum))


def _dispatch_step(count, step=_step):
    """A function that waits for the step, or raises what it ended with. On a GPU a call may be where that
    is raised."""
    try:
        result = step(jnp.ones(count))
    except jax.errors.JaxRuntimeError as error:
        problem = error

        def fail():
            raise problem

        return fail
    return lambda: jax.block_until_ready(result)


def _dispatch_mismatch():
    return _dispatch_step(2 + hvd.rank())


def _check_raises(wait):
    with pytest.raises(jax.errors.JaxRuntimeError, match="step: shape differs"):
        wait()


def _check_ran_or_raises(wait):
    """A chain that goes through programs, as where a process has several devices, brings a failure to the
    calls behind it."""
    if programs.are_chains_inside():
        assert wait().tolist() == [1.0, 1.0]
    else:
        _check_raises(wait)


def what_is_behind_a_failure_runs():
    """Also where the failed program's chain goes on to the next ones, as it does of one without results."""
    for call in (hvd.barrier, lambda: hvd.allreduce(jnp.ones(2)),
                 lambda: hvd.broadcast_parameters({"w": jnp.ones(2)})):
        failed = _dispatch_mismatch()
        _dispatch_step(2 + hvd.rank(), _step_without_result)
        behind = _dispatch_step(2)
        jax.block_until_ready(call())
        _check_ran_or_raises(behind)
        assert _step(jnp.ones(2)).tolist() == [1.0, 1.0]
        _check_raises(failed)
        jax.effects_barrier()


def a_bad_member_is_refused_and_nothing_is_submitted():
    good, flags = jnp.ones((hvd.size(), 2)), jnp.ones((hvd.size(), 2), bool)
    same_names = functools.partial(primitives.all_gather, hvd.global_process_set, ["refused.0", "refused.1", "refused.1"],
                                   rows=[hvd.size() ** 2] * 3, begins=[0] * 3)
    before = hvd.stats()["tensors_completed"]
    for call, member, problem in ((functools.partial(hvd.grouped_reducescatter, name="refused"), flags, "bool"),
                                  (same_names, good, "in flight")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=rf"refused\.1: .*{problem}"):
            jax.block_until_ready(call([good, member, good]))
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum).tolist() == [hvd.size()] * 2
    assert hvd.stats()["tensors_completed"] == before + 1


def a_failure_ends_with_its_session():
    failed = _dispatch_mismatch()
    hvd.shutdown()
    with pytest.raises(jax.errors.JaxRuntimeError, match="init"):
        jax.block_until_ready(_step(jnp.ones(2)))
    hvd.init()
    assert _step(jnp.ones(2)).tolist() == [1.0, 1.0]
    _check_raises(failed)


def a_shutdown_waits_for_what_is_dispatched():
    """Or the others, that read the result first, would get an error."""
    results = jnp.ones(2)
    for _ in range(4):
        results = _step(results)
    if hvd.rank() == 0:
        assert results.tolist() == [1.0, 1.0]
    hvd.shutdown()
    hvd.init()


def a_join_comes_behind_what_is_dispatched():
    rank, size = hvd.rank(), hvd.size()
    with jax.default_device("cpu"):
        sums = [_add(jnp.ones(2)) for _ in range(2 if rank == 0 else 1)]
    hvd.join()
    assert [float(one[0]) for one in sums] == [size, 1.0][:len(sums)]


def a_set_ends_behind_what_is_dispatched():
    some = hvd.add_process_set(range(hvd.size() - 1))
    if some.included():
        result = jax.jit(lambda x: hvd.allreduce(_slowed(x), op=hvd.Sum, process_set=some))(
            jnp.ones(2))
    hvd.remove_process_set(some)
    if hvd.rank() in some.ranks:
        assert result.tolist() == [hvd.size() - 1] * 2


def a_computation_over_several_devices_is_refused():
    """Where the process has them; see test_claims_where_chains_go_through_programs."""
    devices = jax.local_device_count()
    if devices > 1:
        with pytest.raises(ValueError, match="scalecom: start a process for each device"):
            jax.pmap(hvd.allreduce)(jnp.ones((devices, 2)))
