"""Claims about scalecom.jax. Each function is called on every rank, in this order."""

import jax
import jax.numpy as jnp
import numpy
import optax
import pytest
from programs.jax_optax import _train

import scalecom.jax as hvd
from scalecom import basics
from scalecom.exceptions import HorovodInternalError


def _each():
    return range(hvd.size())


def _total(factor=1.0):
    return factor * sum(rank + 1.0 for rank in _each())


def allreduce_sums_every_number_type_in_and_out_of_jit():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.uint8, jnp.int8, jnp.int16, jnp.int32):
        mine = (jnp.arange(17) + hvd.rank()).astype(dtype)
        wanted = sum(jnp.arange(17) + rank for rank in _each()).astype(dtype)
        reduce = lambda x: hvd.allreduce(x, name=f"sum.{dtype.__name__}", op=hvd.Sum)
        for result in (reduce(mine), jax.jit(reduce)(mine)):
            assert result.dtype == dtype and (result == wanted).all(), (dtype, result)


def other_ops_scales_and_half_precision_on_the_way():
    mine = jnp.array([hvd.rank() + 1.0, -hvd.rank()])
    product = numpy.prod([rank + 1.0 for rank in _each()])
    assert hvd.allreduce(mine, op=hvd.Min).tolist() == [1.0, 1.0 - hvd.size()]
    assert hvd.allreduce(mine, op=hvd.Max).tolist() == [hvd.size(), 0.0]
    assert hvd.allreduce(mine, op=hvd.Product)[0] == product
    assert hvd.allreduce(mine, average=False).tolist()[0] == _total()
    assert jnp.allclose(hvd.allreduce(mine)[0], _total() / hvd.size())
    scaled = hvd.allreduce(jnp.full(9, 3.0), op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    assert scaled.tolist() == [6.0 * hvd.size()] * 9
    for compression, rest in ((hvd.Compression.fp16, 2.0**-14), (hvd.Compression.bf16, 2.0**-9)):
        halved = hvd.allreduce(jnp.full(3, 1.0 + rest), op=hvd.Sum, compression=compression)
        assert halved.dtype == jnp.float32 and halved.tolist() == [hvd.size()] * 3
    assert hvd.allreduce(jnp.array(True), op=hvd.Max).dtype == jnp.bool_
    assert hvd.allreduce(jnp.ones(()), op=hvd.Sum) == hvd.size()
    assert hvd.allreduce(jnp.ones((0, 3))).shape == (0, 3)


def a_transposed_array_is_reduced_by_its_own_rows():
    array = jnp.arange(6.0).reshape(2, 3)
    result = jax.jit(lambda x: hvd.allreduce(x.T @ jnp.eye(2), op=hvd.Sum))(array)
    assert (result == hvd.size() * array.T).all()


def _slowed(x):
    """x, after a while."""
    matrix = jnp.full((200, 200), 1.0 / 200) * x[0] / x[0]
    for _ in range(8):
        matrix = matrix @ matrix
    return x * jnp.round(matrix[0].sum())


def calls_of_one_name_keep_the_order_of_the_trace():
    """What is ready first differs between the ranks, and each call's result would do for another."""
    @jax.jit
    def reduce_all(x):
        parts = [x * (place + 1.0) for place in range(12)]
        parts = [_slowed(part) if place % hvd.size() == hvd.rank() else part
                 for place, part in enumerate(parts)]
        return [hvd.allreduce(part, name="same", op=hvd.Sum) for part in parts][::-1]

    for _ in range(3):
        results = [float(result[0]) for result in reduce_all(jnp.ones(3))]
        assert results == [hvd.size() * (place + 1.0) for place in range(12)][::-1]


def the_order_goes_through_inner_functions_loops_and_programs():
    inner = jax.jit(lambda x: hvd.allreduce(_slowed(x) if hvd.rank() == 0 else x, name="same",
                                            op=hvd.Sum))

    @jax.jit
    def outer(x):
        first = hvd.allreduce(x, name="same", op=hvd.Sum)
        second = inner(10.0 * x)
        _, loop = jax.lax.scan(lambda carry, one: (carry, hvd.allreduce(one, name="same", op=hvd.Sum)),
                               0.0, jnp.stack([100.0 * x, 1000.0 * x]))
        last = jax.lax.cond(x[0] > 0, lambda: inner(1e4 * x), lambda: x)
        return last, loop, second, first

    outcomes = [outer(jnp.ones(2)) for _ in range(3)]  # Dispatched, not waited for.
    outcomes.append((inner(1e4 * jnp.ones(2)), *outcomes[0][1:]))
    for last, loop, second, first in outcomes:
        found = [first[0], second[0], loop[0, 0], loop[1, 0], last[0]]
        assert [float(one) for one in found] == [hvd.size() * 10.0**power for power in range(5)]


def a_result_nobody_uses_is_reduced_all_the_same():
    """Or the ranks where it is used would wait for ever."""
    @jax.jit
    def drop(x):
        reduced = hvd.allreduce(x, name="dropped", op=hvd.Sum)
        return reduced if hvd.rank() == 0 else x

    assert drop(jnp.ones(2))[0] == (hvd.size() if hvd.rank() == 0 else 1.0)


def a_compiled_function_uses_the_same_names_each_time():
    step = jax.jit(lambda x: hvd.allreduce(hvd.allreduce(x, op=hvd.Max), op=hvd.Max))
    step(jnp.ones(4)).block_until_ready()
    before = hvd.stats()
    for _ in range(20):
        step(jnp.ones(4)).block_until_ready()
    after = hvd.stats()
    known = ("tensors_negotiated_from_cache", "steady_agreements")
    assert sum(after[kind] - before[kind] for kind in known) >= 20


def a_call_that_a_trace_refuses_takes_no_number():
    @jax.jit
    def step(x):
        if hvd.rank() == 0:
            with pytest.raises(ValueError, match="op is 7"):
                hvd.allreduce(x, op=7)
        return hvd.allreduce(x, op=hvd.Sum)

    assert step(jnp.ones(2)).tolist() == [hvd.size()] * 2


def gradients_are_those_of_the_contract():
    rank, size = hvd.rank(), hvd.size()
    weights = jnp.array([1.0, 2.0]) * (rank + 1.0)
    for op, factor in ((hvd.Average, _total() / size), (hvd.Sum, _total())):
        loss = lambda x: (weights * hvd.allreduce(x, op=op)).sum()
        for gradient in (jax.grad(loss)(jnp.ones(2)), jax.jit(jax.grad(loss))(jnp.ones(2))):
            assert jnp.allclose(gradient, factor * jnp.array([1.0, 2.0])), (op, gradient)
    rows = jnp.arange(2.0 * size).reshape(size, 2) * (rank + 1.0)
    gradient = jax.grad(lambda x: (rows * hvd.allgather(x)).sum())(jnp.ones((1, 2)))
    assert jnp.allclose(gradient, jnp.arange(2.0 * size).reshape(size, 2)[rank] * _total() / size)
    gradient = jax.grad(lambda x: (weights * hvd.broadcast(x, size - 1)).sum())(jnp.ones(2))
    wanted = jnp.array([1.0, 2.0]) * _total() / size if rank == size - 1 else jnp.zeros(2)
    assert jnp.allclose(gradient, wanted)
    with pytest.raises(NotImplementedError, match="Average, Sum and Adasum"):
        jax.grad(lambda x: hvd.allreduce(x, op=hvd.Max).sum())(jnp.ones(2))


def a_group_is_one_tree_and_differentiable():
    tree = {"a": jnp.ones(3), "b": [jnp.full((2, 2), 2.0, jnp.bfloat16), jnp.arange(3)]}
    reduce = lambda one: hvd.grouped_allreduce(one, name="tree", op=hvd.Sum)
    for result in (reduce(tree), jax.jit(reduce)(tree)):
        same = jax.tree.map(lambda new, old: new.dtype == old.dtype and
                            bool((new == hvd.size() * old).all()), result, tree)
        assert all(jax.tree.leaves(same)), result
    assert hvd.grouped_allreduce({}) == {}
    loss = lambda one: sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(reduce(one)))
    gradient = jax.grad(loss, allow_int=True)(tree)
    assert gradient["a"].tolist() == [2.0 * hvd.size() * hvd.size()] * 3


def gathers_and_broadcasts():
    rank, size = hvd.rank(), hvd.size()
    mine = jnp.full((2, 3), rank)
    gather = lambda x: hvd.allgather(x, name="rows")
    for result in (gather(mine), jax.jit(gather)(mine)):
        assert result.shape == (2 * size, 3) and result[:, 0].tolist() == [
            one for one in _each() for _ in range(2)]
    for root in _each():
        send = lambda x: hvd.broadcast(x, root, name=f"from.{root}")
        for result in (send(mine), jax.jit(send)(mine)):
            assert (result == root).all() and (mine == rank).all()
    parameters = {"w": jnp.full(3, 1.0 * rank), "b": numpy.full(2, rank, numpy.int32), "name": "n"}
    sent = hvd.broadcast_parameters(parameters, size - 1)
    assert sent["w"].tolist() == [size - 1.0] * 3 and sent["b"].tolist() == [size - 1] * 2
    assert sent["name"] == "n"
    assert hvd.allgather_object("x" * rank) == ["x" * one for one in _each()]
    assert hvd.broadcast_object({"rank": rank}, size - 1) == {"rank": size - 1}
    hvd.barrier()


def parameters_that_other_ranks_lack_are_told_of_at_once():
    if hvd.size() == 1:
        return
    parameters = {"w": jnp.ones(2), **({} if hvd.rank() == 0 else {"b": jnp.ones(2)})}
    with pytest.raises(HorovodInternalError, match=r"the ranks have \[1, 2.* arrays of the pytree, by rank"):
        hvd.broadcast_parameters(parameters)
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum).tolist() == [hvd.size()] * 2


def mistakes_are_refused_at_the_call():
    ones = jnp.ones(2)
    for call, words in ((lambda: hvd.allreduce(ones, average=True, op=hvd.Sum), "use op alone"),
                        (lambda: hvd.allreduce(ones, op=7), "op is 7"),
                        (lambda: hvd.allreduce(jnp.ones(2, jnp.complex64)), "complex64"),
                        (lambda: hvd.allreduce({"w": ones}), "is a dict.*call the grouped_"),
                        (lambda: hvd.broadcast("text", 0), "is a str.*broadcast_object"),
                        (lambda: hvd.allreduce(ones, compression=hvd.Compression.scalecom), "parentheses"),
                        (lambda: hvd.allreduce(ones, compression=hvd.Compression.scalecom(4)), "needs a name"),
                        (lambda: hvd.allgather(jnp.ones(())), "one dimension"),
                        (lambda: hvd.reducescatter(jnp.ones(())), "one dimension"),
                        (lambda: hvd.reducescatter(ones, compression=hvd.Compression.scalecom(4)),
                         "allreduce only"),
                        (lambda: hvd.alltoall(jnp.ones(2 * hvd.size()), [-1] + [1] * hvd.size()),
                         "splits is"),
                        (lambda: hvd.alltoall(ones, [1] * hvd.size() + [0]), "splits is"),
                        (lambda: hvd.alltoall(ones, 2), "splits is 2"),
                        (lambda: jax.jit(hvd.alltoall)(ones, numpy.ones(hvd.size(), int)), "traced"),
                        (lambda: jax.jit(lambda x: hvd.alltoall(x, [1] * hvd.size()))(
                            jnp.ones(hvd.size())), "received_splits is None"),
                        (lambda: hvd.DistributedOptimizer(optax.sgd), "optimizer is <function sgd"),
                        (lambda: hvd.distributed(gradient_predivide_factor=0), "a number above 0"),
                        (lambda: hvd.broadcast(ones, hvd.size()), "root_rank"),
                        (lambda: hvd.broadcast_object(ones, -1), "root_rank")):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(NotImplementedError, match="platforms CPU and CUDA.* for tpu"):
        jax.export.export(jax.jit(hvd.allreduce), platforms=["tpu"])(ones)
    with pytest.raises(NotImplementedError, match="jax.vmap"):
        jax.vmap(hvd.allreduce)(jnp.ones((2, 3)))


def what_goes_wrong_between_ranks_is_an_error_on_all():
    if hvd.size() == 1:
        return
    rows = jnp.ones((hvd.rank() + 1, 2))
    for call in (lambda: hvd.allgather(rows, name="uneven"),
                 lambda: jax.jit(lambda x: hvd.allreduce(x, name="uneven"))(rows)):
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"uneven: shape .*: \[1, 2\] on rank 0; \[2, 2\] on rank 1"):
            jax.block_until_ready(call())
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum).tolist() == [hvd.size()] * 2


def calls_outside_of_jit_compile_once():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None)

    def call():
        hvd.allreduce(jnp.ones(8), name="again", compression=hvd.Compression.scalecom(rate=4))
        return jax.grad(lambda value: hvd.allreduce(value, op=hvd.Sum).sum())(jnp.ones(3))

    call()
    assert compiled
    before = len(compiled)
    assert numpy.array_equal(call(), [hvd.size()] * 3)
    assert len(compiled) == before, compiled[before:]


def collectives_work_where_jit_is_disabled():
    with jax.disable_jit():
        assert numpy.array_equal(hvd.allreduce(jnp.ones(2), op=hvd.Sum), [hvd.size()] * 2)


def torch_beside_it_shares_the_session():
    import torch
    import scalecom.torch
    assert scalecom.torch.rank() == hvd.rank() == basics.rank()
    both = hvd.allreduce(jnp.ones(2), op=hvd.Sum)
    assert scalecom.torch.allreduce(torch.ones(2), op=hvd.Sum).tolist() == both.tolist()


def adasums_of_orthogonal_arrays_add_and_of_equal_ones_stay():
    """On the CPU, as what follows: a GPU has neither."""
    with jax.default_device("cpu"):
        mine = jnp.zeros(hvd.size()).at[hvd.rank()].set(hvd.rank() + 1.0)
        assert hvd.allreduce(mine, op=hvd.Adasum).tolist() == [rank + 1.0 for rank in _each()]
        equal = jax.jit(lambda array: hvd.allreduce(array, op=hvd.Adasum))(jnp.arange(3.0))
        assert jnp.allclose(equal, jnp.arange(3.0))


def a_rank_without_data_joins():
    with jax.default_device("cpu"):
        for _ in range(hvd.rank()):
            hvd.allreduce(jnp.ones(2), name="uneven")
    assert hvd.join() == hvd.size() - 1
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum).tolist() == [hvd.size()] * 2


def forward_derivatives_are_the_collectives_of_the_tangents():
    rank, size = hvd.rank(), hvd.size()
    tangent = jnp.array([1.0, 2.0]) * (rank + 1.0)
    for push in (jax.jvp, jax.jit(jax.jvp, static_argnums=0)):
        value, moved = push(lambda x: hvd.allreduce(x, op=hvd.Sum) ** 2, (jnp.ones(2),), (tangent,))
        assert value.tolist() == [size**2] * 2
        assert moved.tolist() == [2.0 * size * _total(), 4.0 * size * _total()]
    _, moved = jax.jvp(lambda x: hvd.broadcast(x, size - 1), (jnp.ones(2),), (tangent,))
    assert moved.tolist() == [1.0 * size, 2.0 * size]
    _, moved = jax.jvp(hvd.allgather, (jnp.ones(2),), (tangent,))
    assert moved.tolist() == [one * (place + 1.0) for place in _each() for one in (1.0, 2.0)]
    mixed = {"a": jnp.ones(2), "b": jnp.arange(3)}
    gradient = jax.grad(lambda one: jax.jvp(lambda x: hvd.grouped_allreduce({**mixed, "a": x})["a"],
                                            (one,), (one,))[1].sum())(jnp.ones(2))
    assert gradient.tolist() == [1.0, 1.0]
    with pytest.raises(NotImplementedError, match="Average, Sum and Adasum"):
        jax.jvp(lambda x: hvd.allreduce(x, op=hvd.Min), (jnp.ones(2),), (tangent,))


def a_compressed_allreduce_has_a_dense_gradient():
    compression = hvd.Compression.scalecom(4)
    loss = lambda x: ((hvd.rank() + 1.0) * hvd.allreduce(x, name="compressed", op=hvd.Sum,
                                                         compression=compression)).sum()
    assert jax.jit(jax.grad(loss))(jnp.ones((8, 8))).tolist() == [[_total()] * 8] * 8


def _rows_of_rank(rank, rows):
    """Whose values tell their rank and row."""
    return 100.0 * rank + jnp.arange(1.0 * rows)[:, None] * jnp.ones(2)


def exchanges_send_rows_with_and_without_splits():
    rank, size = hvd.rank(), hvd.size()
    equal = lambda x: hvd.alltoall(x, name="equal")
    for result in (equal(_rows_of_rank(rank, 2 * size)), jax.jit(equal)(_rows_of_rank(rank, 2 * size))):
        assert result[:, 0].tolist() == [100.0 * one + 2 * rank + row
                                         for one in _each() for row in range(2)]
    splits = [2 * place + rank for place in _each()]
    received = [2 * rank + one for one in _each()]
    mine = _rows_of_rank(rank, sum(splits))
    wanted = [100.0 * one + row for one in _each()
              for row in range(sum(2 * place + one for place in range(rank)),
                               sum(2 * place + one for place in range(rank + 1)))]
    known = jax.jit(lambda x: hvd.alltoall(x, splits, "known", received_splits=received))
    for rows, counts in (hvd.alltoall(mine, splits), hvd.alltoall(mine, numpy.array(splits), "named"),
                         known(mine)):
        assert rows[:, 0].tolist() == wanted and counts.tolist() == received
        assert counts.dtype == jnp.int32
    gradient = jax.grad(lambda x: (known(x)[0] * (rank + 1.0)).sum())(mine)
    assert gradient[:, 0].tolist() == [place + 1.0 for place in _each() for _ in range(splits[place])]
    with pytest.raises(jax.errors.JaxRuntimeError, match="received_splits is"):
        wrong = [count + 1 for count in received]
        jax.block_until_ready(hvd.alltoall(mine, splits, "wrong", received_splits=wrong))


def reducescatters_cut_the_rows():
    rank, size = hvd.rank(), hvd.size()
    rows = 2 * size + 1  # The first rank gets one more.
    begin = 0 if rank == 0 else 2 * rank + 1
    end = 2 * rank + 3
    for op, factor in ((hvd.Average, 1.0), (hvd.Sum, 1.0 * size)):
        scatter = lambda x: hvd.reducescatter(x, op=op, prescale_factor=0.5)
        loss = lambda x: ((rank + 1.0) * scatter(x)).sum()
        for change in (lambda call: call, jax.jit):
            part = change(scatter)(_rows_of_rank(0, rows))
            assert part[:, 0].tolist() == [0.5 * factor * row for row in range(begin, end)]
            gradient = change(jax.grad(loss))(_rows_of_rank(0, rows))
            owners = [0] + [one for one in _each() for _ in range(2)]
            assert gradient[:, 0].tolist() == [0.5 * factor * (owner + 1.0) for owner in owners]
    halved = hvd.reducescatter(jnp.ones((size, 3)), compression=hvd.Compression.fp16)
    assert halved.dtype == jnp.float32 and halved.tolist() == [[1.0] * 3]


def groups_gather_and_scatter_trees():
    rank, size = hvd.rank(), hvd.size()
    tree = {"a": jnp.full((1, 2), 1.0 * rank), "b": [jnp.full(3, rank)]}
    for change in (lambda call: call, jax.jit):
        gathered = change(hvd.grouped_allgather)(tree)
        assert gathered["a"][:, 0].tolist() == list(_each())
        assert gathered["b"][0].tolist() == [one for one in _each() for _ in range(3)]
        parts = change(lambda one: hvd.grouped_reducescatter(one, op=hvd.Sum))(gathered)
        assert parts["a"].tolist() == [[1.0 * size * rank] * 2]
        assert parts["b"][0].tolist() == [size * rank] * 3
    assert hvd.grouped_allgather([]) == [] and hvd.grouped_reducescatter({}) == {}
    loss = lambda x: sum((rank + 1.0) * part.sum() for part in hvd.grouped_allgather([x, 2.0 * x]))
    assert jnp.allclose(jax.grad(loss)(jnp.ones(2)), 3.0 * _total() / size)


def process_sets_work_beside_each_other():
    """The last rank is alone; the others, or all of one, are the rest."""
    rank, size = hvd.rank(), hvd.size()
    if size == 1:
        return
    rest = hvd.add_process_set(list(range(size - 1)))
    last = hvd.add_process_set([size - 1])
    mine, other = (last, rest) if rank == size - 1 else (rest, last)
    count = 1.0 * mine.size()
    root = mine.ranks[-1]

    @jax.jit
    def run(ones, ranks, rows):
        gathered = jax.value_and_grad(lambda x: hvd.allgather(x, process_set=mine).sum())(ranks[:1])
        return (hvd.allreduce(ones, op=hvd.Sum, process_set=mine), hvd.allreduce(ones, op=hvd.Sum),
                *gathered, hvd.broadcast(ranks, root, process_set=mine),
                hvd.reducescatter(rows, op=hvd.Sum, process_set=mine),
                hvd.alltoall(ranks, process_set=mine))

    numbers = jnp.full(mine.size(), 1.0 * rank)
    in_set, in_all, gathered, gradient, sent, part, swapped = run(
        jnp.ones(2), numbers, jnp.ones((mine.size(), 1)))
    assert in_set.tolist() == [count] * 2 and in_all.tolist() == [size] * 2
    assert gathered == sum(mine.ranks) and gradient.tolist() == [1.0]
    assert sent.tolist() == [root] * mine.size() and part.tolist() == [[count]]
    assert swapped.tolist() == mine.ranks
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum, process_set=mine).tolist() == [count] * 2
    rows, _ = hvd.alltoall(jnp.full(mine.size(), rank), [1] * mine.size(), process_set=mine)
    assert rows.tolist() == mine.ranks
    hvd.barrier(mine)
    trained, _ = _train(hvd.DistributedOptimizer(optax.sgd(0.1), process_set=mine), 2, 6, slice(None))
    alone, _ = _train(optax.sgd(0.1), 2, 6, slice(None))
    assert jnp.allclose(trained["dense"]["bias"], alone["dense"]["bias"], atol=1e-5)
    for wrong, words in ((other, "is not"), (hvd.ProcessSet([0]), "not in use"), (3, "process_set is 3")):
        with pytest.raises(ValueError, match=words):
            hvd.allreduce(jnp.ones(2), process_set=wrong)
    with pytest.raises(ValueError, match="root_rank"):
        hvd.broadcast(jnp.ones(2), other.ranks[0], process_set=mine)
    number = mine.process_set_id
    compiled = jax.jit(lambda x: hvd.allreduce(x, op=hvd.Sum, process_set=mine))
    assert compiled(jnp.ones(2)).tolist() == [count] * 2
    for change, process_set in ((hvd.remove_process_set, rest), (hvd.remove_process_set, last),
                                (hvd.add_process_set, last), (hvd.add_process_set, rest)):
        assert change(process_set)
    assert mine.process_set_id > number
    # JAX's own where chains go through programs, as on a GPU.
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=f"no process set {number};.* trace anew"):
        compiled(jnp.ones(2))
    assert hvd.allreduce(jnp.ones(2), op=hvd.Sum, process_set=mine).tolist() == [count] * 2
    for process_set in (rest, last):
        assert hvd.remove_process_set(process_set)


def a_barrier_in_a_program_waits_for_all_ranks():
    """What follows it comes behind what all ranks have done before it."""
    @jax.jit
    def step(x):
        hvd.barrier()
        return hvd.allreduce(x, op=hvd.Sum)

    assert step(jnp.ones(2)).tolist() == [hvd.size()] * 2
    assert "scalecom_barrier" in str(jax.make_jaxpr(step)(jnp.ones(2)))
    hvd.barrier()
