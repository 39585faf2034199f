"""Claims about the collectives of scalecom.tensorflow. Each function is called on every rank, in this
order."""

import threading

import numpy
import pytest
import tensorflow as tf

import scalecom.tensorflow as hvd
from scalecom import basics
from scalecom.tensorflow import operations

FLOATS = [tf.float16, tf.bfloat16, tf.float32, tf.float64]
INTEGERS = [tf.uint8, tf.int8, tf.int16, tf.int32, tf.int64]


def _each():
    return range(hvd.size())


def _equal(one, other):
    return numpy.array_equal(numpy.asarray(one), numpy.asarray(other))


def the_operations_are_tensorflows():
    assert operations.problem is None


def allreduce_sums_every_number_type():
    for dtype in FLOATS + INTEGERS:
        mine = tf.cast(tf.range(17) + hvd.rank(), dtype)
        wanted = tf.cast(sum(numpy.arange(17) + rank for rank in _each()), dtype)
        result = hvd.allreduce(mine, name=f"sum.{dtype.name}", op=hvd.Sum)
        assert result.dtype == dtype and result.shape == [17]
        assert _equal(tf.cast(result, tf.float64), tf.cast(wanted, tf.float64)), (dtype, result)


def allreduce_averages_scales_and_takes_extremes():
    mine = tf.fill([3, 5], float(hvd.rank()))
    average = hvd.allreduce(mine)
    assert numpy.allclose(average, (hvd.size() - 1) / 2, rtol=1e-7)
    assert _equal(hvd.allreduce(mine, op=hvd.Max), numpy.full((3, 5), hvd.size() - 1.0))
    assert _equal(hvd.allreduce(mine, op=hvd.Min), numpy.zeros((3, 5)))
    assert _equal(hvd.allreduce(mine + 1, op=hvd.Product)[0, 0], numpy.prod(1.0 + numpy.arange(
        hvd.size())))
    third = 1.0 / 3.0  # Not a number of 32 bits.
    scaled = hvd.allreduce(tf.constant([3.0], tf.float64), op=hvd.Sum, prescale_factor=third,
                           postscale_factor=0.5)
    assert _equal(scaled, [3.0 * third * hvd.size() * 0.5])
    assert _equal(hvd.allreduce(tf.ones(2), average=False), [hvd.size()] * 2)


def scalars_and_empty_tensors_are_reduced():
    assert hvd.allreduce(tf.constant(1.0), op=hvd.Sum).shape == []
    assert hvd.allreduce(tf.zeros([0, 3]), op=hvd.Sum).shape == [0, 3]


def a_tf_function_reduces_again_and_again():
    @tf.function
    def step(values):
        one = hvd.allreduce(values, op=hvd.Sum)
        two = hvd.allreduce(values * 2, op=hvd.Sum, name="named")
        assert one.shape == values.shape
        return one + two

    for count in range(20):
        values = tf.fill([4], float(count + hvd.rank()))
        wanted = 3.0 * sum(count + rank for rank in _each())
        assert _equal(step(values), [wanted] * 4)


def a_constant_is_reduced_at_each_call():
    size = tf.Variable(0)

    @tf.function
    def count():
        size.assign_add(hvd.allreduce(tf.constant(1), op=hvd.Sum))

    before = hvd.stats()["tensors_completed"]
    for _ in range(3):
        count()
    assert size.numpy() == 3 * hvd.size()
    assert hvd.stats()["tensors_completed"] == before + 3


def a_graph_of_a_session_reduces():
    graph = tf.Graph()
    with graph.as_default():
        fed = tf.compat.v1.placeholder(tf.float32, [None])
        sums = [hvd.allreduce(fed + place, op=hvd.Sum) for place in range(5)]
        rank = hvd.rank_op()
        slope, = tf.gradients(hvd.broadcast(fed, hvd.size() - 1), fed)
        assert hvd.broadcast_object(hvd.rank(), hvd.size() - 1) == hvd.size() - 1
        assert hvd.allgather_object(hvd.rank()) == list(_each())
    with tf.compat.v1.Session(graph=graph) as session:
        for _ in range(3):
            got, mine, own = session.run([sums, rank, slope], {fed: [1.0, 2.0]})
            assert mine == hvd.rank()
            assert _equal(own, [float(mine == hvd.size() - 1)] * 2)
            for place, value in enumerate(got):
                assert _equal(value, [(1.0 + place) * hvd.size(), (2.0 + place) * hvd.size()])


def operations_that_wait_hold_no_thread():
    """The one thread that the session has submits all, in whichever order; a rank that held it in its
    first would wait for ever for the others. Large ones hold it for a while, and let it go."""
    places = list(range(8) if hvd.rank() == 0 else reversed(range(8)))
    options = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1,
                                       intra_op_parallelism_threads=1, use_per_session_threads=True)
    wanted = [float(place * hvd.size()) for place in range(8)]
    for extent in (3, 1 << 17):
        with tf.Graph().as_default() as graph:
            sums = [hvd.allreduce(tf.fill([extent], float(place)), op=hvd.Sum, name=f"crossed.{place}")
                    for place in places]
        with tf.compat.v1.Session(graph=graph, config=options) as session:
            got = session.run(sums)
        assert sorted(value[-1] for value in got) == wanted


def a_result_in_an_inputs_memory_changes_nothing_that_others_see():
    """An input that nobody else holds gives its memory to the result."""
    kept = tf.Variable(tf.fill([5000], hvd.rank() + 1.0))
    total = sum(rank + 1.0 for rank in _each())

    @tf.function
    def step(given):
        own, shared, constant = given * 2.0, given * 3.0, tf.fill([7], 5.0)
        sums = hvd.grouped_allreduce([own, shared, shared, given, kept, constant], op=hvd.Sum)
        sent = hvd.broadcast(given * 4.0, 0), hvd.broadcast(kept, 0)
        return sums, sent, (shared, given, constant)

    given = tf.fill([5000], hvd.rank() + 1.0)
    for _ in range(3):
        sums, sent, others = step(given)
        for value, wanted in zip(sums, (2.0, 3.0, 3.0, 1.0, 1.0)):
            assert _equal(value, numpy.full(5000, wanted * total))
        assert _equal(sums[5], numpy.full(7, 5.0 * hvd.size()))
        assert _equal(sent[0], numpy.full(5000, 4.0)) and _equal(sent[1], numpy.ones(5000))
        for value, wanted in zip((*others[:2], kept, given), (3.0, 1.0, 1.0, 1.0)):
            assert _equal(value, numpy.full(5000, wanted * (hvd.rank() + 1.0)))
        assert _equal(others[2], numpy.full(7, 5.0))


def a_group_is_one_submit():
    tensors = [tf.fill([place % 3], float(place)) for place in range(1000)]
    hvd.barrier()
    before = hvd.stats()
    results = hvd.grouped_allreduce(tensors, op=hvd.Sum)
    after = hvd.stats()
    for place, result in enumerate(results):
        assert _equal(result, numpy.full(place % 3, float(place * hvd.size())))
    assert after["tensors_completed"] - before["tensors_completed"] == 1000
    assert after["batches_executed"] - before["batches_executed"] <= 2
    assert hvd.grouped_allreduce([]) == []


def short_types_travel_where_they_are_asked_for():
    mine = tf.constant([1.0 + 2.0**-9, 3.0])
    for compression in (hvd.Compression.fp16, hvd.Compression.bf16):
        result = hvd.allreduce(mine, op=hvd.Sum, compression=compression)
        assert result.dtype == tf.float32
        wire = tf.cast(tf.cast(mine, compression.wire_dtype), tf.float32)
        assert _equal(result, wire * float(hvd.size()))


def gradients_are_those_of_the_contract():
    def check(function, tensor, wanted):
        for run in (function, tf.function(function)):
            with tf.GradientTape() as tape:
                tape.watch(tensor)
                result = run(tensor)
                loss = tf.reduce_sum(result * tf.reshape(
                    tf.range(tf.size(result, tf.int32), dtype=tf.int32), tf.shape(result)
                    ) if result.dtype == tf.int32 else result * float(hvd.rank() + 1))
            assert _equal(tape.gradient(loss, tensor), wanted), (function, wanted)

    size, rank = hvd.size(), hvd.rank()
    total = size * (size + 1) / 2
    mine = tf.fill([size * 2, 3], 1.0)
    ones = numpy.ones((size * 2, 3))
    check(lambda one: hvd.allreduce(one, op=hvd.Sum, prescale_factor=0.5), mine, ones * total / 2)
    check(lambda one: hvd.grouped_allreduce([one, one * 2], op=hvd.Sum)[1], mine, ones * 2 * total)
    rows = tf.ones([rank + 1, 2])
    check(hvd.allgather, rows, numpy.full((rank + 1, 2), total / size, numpy.float32))
    check(lambda one: hvd.broadcast(one, size - 1), mine,
          ones * numpy.float32(total / size) if rank == size - 1 else ones * 0)
    parts = numpy.repeat(numpy.arange(1.0, size + 1), 2)[:, None] * numpy.ones((1, 3))
    check(hvd.alltoall, mine, parts)
    check(lambda one: hvd.reducescatter(one, op=hvd.Average), mine, parts)
    check(lambda one: hvd.reducescatter(one, op=hvd.Sum, postscale_factor=0.5), mine,
          parts * size / 2)


def a_graph_of_gradients_may_outlive_its_ranks():
    @tf.function
    def gradients(weight, rows, mine):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([rows, mine])
            results = {"gather": hvd.allgather(rows), "root": hvd.broadcast(mine, root),
                       "part": hvd.reducescatter(mine, op=hvd.Sum)}
            losses = {name: tf.reduce_sum(result) * weight for name, result in results.items()}
        return (tape.gradient(losses["gather"], rows), tape.gradient(losses["root"], mine),
                tape.gradient(losses["part"], mine))

    size, rank = hvd.size(), hvd.rank()
    root, mean = size - 1, numpy.float32((size + 1) / 2)
    given = tf.constant(rank + 1.0), tf.ones([rank + 1, 2]), tf.ones([size, 3])
    with pytest.MonkeyPatch.context() as others:
        others.setattr(basics, "rank", lambda: 7)
        others.setattr(basics, "size", lambda: 9)
        graph = gradients.get_concrete_function(*given)
    of_gather, of_root, of_part = graph(*given)
    assert _equal(of_gather, numpy.full((rank + 1, 2), mean))
    assert _equal(of_root, numpy.full((size, 3), mean if rank == root else 0))
    assert _equal(of_part, numpy.arange(1.0, size + 1)[:, None] * numpy.full((1, 3), size))


def a_maximum_has_no_gradient():
    values = tf.ones([2])
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = hvd.allreduce(values, op=hvd.Max)
    with pytest.raises((NotImplementedError, LookupError), match="Average, Sum and Adasum only"):
        tape.gradient(result, values)


def gathers_take_other_first_dimensions():
    mine = tf.fill([hvd.rank() + 1, 2], hvd.rank())
    wanted = numpy.repeat(numpy.arange(hvd.size()), numpy.arange(1, hvd.size() + 1))
    wanted = numpy.stack([wanted, wanted], axis=1)
    assert _equal(hvd.allgather(mine), wanted)

    @tf.function
    def gather(one):
        result = hvd.allgather(one, name="in a function")
        assert result.shape.as_list() == [None, 2]
        return result

    assert _equal(gather(mine), wanted)
    both = hvd.grouped_allgather([mine, tf.cast(mine, tf.float64) * 2])
    assert _equal(both[0], wanted) and _equal(both[1], wanted * 2.0)
    assert _equal(hvd.allgather(tf.constant([hvd.rank() > 0])), [rank > 0 for rank in _each()])


def broadcasts_give_the_roots_values():
    root = hvd.size() - 1
    mine = tf.fill([3], hvd.rank())
    assert _equal(hvd.broadcast(mine, root), [root] * 3)
    assert _equal(mine, [hvd.rank()] * 3)
    variables = [tf.Variable(tf.fill([place], float(hvd.rank()))) for place in range(4)]
    hvd.broadcast_(variables, root, name="named")
    for place, variable in enumerate(variables):
        assert _equal(variable, [float(root)] * place)
    variables[3].assign(tf.fill([3], float(hvd.rank())))
    tf.function(lambda: hvd.broadcast_variables(variables, 0))()
    assert _equal(variables[3], [0.0] * 3)


def rows_are_exchanged():
    size, rank = hvd.size(), hvd.rank()
    equal = hvd.alltoall(tf.fill([size, 2], rank))
    assert _equal(equal[:, 0], list(_each()))
    splits = [rank + 1] * size
    rows, received = hvd.alltoall(tf.fill([sum(splits)], rank), splits)
    assert received.dtype == tf.int32 and _equal(received, [one + 1 for one in _each()])
    assert _equal(rows, numpy.repeat(numpy.arange(size), numpy.arange(1, size + 1)))
    for wrong in ([1.5] * size, [1.0] * size, []):
        with pytest.raises(ValueError, match="must be whole numbers, one for each rank"):
            hvd.alltoall(tf.ones([size]), wrong)


def unsigned_shorts_travel():
    mine = tf.constant([65535 - hvd.rank()] * hvd.size(), tf.uint16)
    wanted = [65535 - rank for rank in _each()]
    for run in (lambda call: call(), lambda call: tf.function(call)()):
        gathered = run(lambda: hvd.allgather(mine[:1]))
        exchanged = run(lambda: hvd.alltoall(mine))
        assert gathered.dtype == exchanged.dtype == tf.uint16
        assert _equal(gathered, wanted) and _equal(exchanged, wanted)
        assert _equal(run(lambda: hvd.broadcast(mine, 0)), [65535] * hvd.size())
    with pytest.raises(tf.errors.InvalidArgumentError, match="dtype uint16 is not supported"):
        hvd.allreduce(mine)


def parts_of_the_reduction_are_scattered():
    size, rank = hvd.size(), hvd.rank()
    mine = tf.reshape(tf.range(2.0 * (2 * size + 1)), [2 * size + 1, 2])
    part = hvd.reducescatter(mine, op=hvd.Sum)
    begin = 0 if rank == 0 else 2 * rank + 1
    rows = 3 if rank == 0 else 2
    assert _equal(part, mine.numpy()[begin:begin + rows] * size)
    two = hvd.grouped_reducescatter([mine, mine * 2], op=hvd.Average)
    assert numpy.allclose(two[1], mine.numpy()[begin:begin + rows] * 2, rtol=1e-6)


def sparse_slices_are_gathered():
    values = tf.fill([2, 3], float(hvd.rank() + 1))
    slices = tf.IndexedSlices(values, tf.constant([0, hvd.rank()]), tf.constant([hvd.size(), 3]))
    for op in (hvd.Sum, hvd.Average):
        result = hvd.allreduce(slices, op=op)
        assert isinstance(result, tf.IndexedSlices)
        dense = tf.convert_to_tensor(result)
        wanted = numpy.zeros((hvd.size(), 3))
        for rank in _each():
            wanted[0] += rank + 1
            wanted[rank] += rank + 1
        assert numpy.allclose(dense, wanted / (hvd.size() if op == hvd.Average else 1), rtol=1e-6)
    with pytest.raises(NotImplementedError, match="op is Max; tf.IndexedSlices"):
        hvd.allreduce(slices, op=hvd.Max)
    for name in (None, "mixed"):
        one, sparse, two = hvd.grouped_allreduce([tf.ones(2), slices, tf.ones([])], op=hvd.Sum, name=name)
        assert _equal(one, [hvd.size()] * 2) and two.numpy() == hvd.size()
        assert isinstance(sparse, tf.IndexedSlices) and _equal(tf.convert_to_tensor(sparse), wanted)
    for refused in (lambda: hvd.grouped_allreduce([tf.ones(2), slices], op=hvd.Max),
                    lambda: hvd.grouped_allreduce([tf.ones(2, tf.int32), slices], op=hvd.Adasum),
                    lambda: hvd.reducescatter(slices), lambda: hvd.grouped_reducescatter([slices]),
                    lambda: hvd.allgather(slices), lambda: hvd.grouped_allgather([slices]),
                    lambda: hvd.broadcast(slices, 0), lambda: hvd.alltoall(slices),
                    lambda: hvd.allreduce(tf.ragged.constant([[1.0], []])), lambda: hvd.allgather(tf.sparse.eye(2))):
        with pytest.raises(NotImplementedError, match="tf.(IndexedSlices|RaggedTensor|SparseTensor)"):
            refused()


def facts_are_read_when_they_run():
    @tf.function
    def facts():
        hvd.barrier()
        return [hvd.rank_op(), hvd.size_op(), hvd.local_rank_op(), hvd.local_size_op(),
                hvd.process_set_included_op()]

    wanted = [hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), 1]
    assert _equal(facts(), wanted)
    assert hvd.size_op().dtype == tf.int32 and hvd.process_set_included_op(77).numpy() == 0


def process_sets_have_operations_of_their_own():
    if hvd.size() < 3:
        return
    some = hvd.add_process_set([0, hvd.size() - 1])
    try:
        assert hvd.process_set_included_op(some.process_set_id).numpy() == some.included()
        assert hvd.size_op(some.process_set_id).numpy() == 2
        if not some.included():
            with pytest.raises(tf.errors.InvalidArgumentError):
                hvd.allreduce(tf.ones(2), process_set=some)
            own = tf.Variable(3.0)
            with hvd.DistributedGradientTape(tf.GradientTape(), process_set=some) as tape:
                square = own * own
            assert _equal(tape.gradient(square, own), 6.0)
            return
        mine = tf.constant([float(some.rank())])
        assert _equal(hvd.allreduce(mine, process_set=some), [0.5])
        assert _equal(tf.function(lambda one: hvd.allgather(one, process_set=some))(mine), [0, 1])
        assert _equal(hvd.broadcast(mine, some.ranks[1], process_set=some), [1.0])
        assert hvd.allgather_object(some.rank(), process_set=some) == [0, 1]
        with tf.GradientTape() as tape:
            tape.watch(mine)
            result = hvd.allreduce(mine, op=hvd.Sum, process_set=some)
        assert _equal(tape.gradient(result, mine), [2.0])
    finally:
        hvd.remove_process_set(some)
    with pytest.raises(ValueError, match="not in use"):
        hvd.allreduce(tf.ones(2), process_set=some)


def objects_travel():
    mine = {"rank": hvd.rank(), "text": "x" * hvd.rank()}
    assert hvd.broadcast_object(mine, hvd.size() - 1)["rank"] == hvd.size() - 1
    assert hvd.broadcast_object_fn(0)([hvd.rank()]) == [0]
    assert [one["rank"] for one in hvd.allgather_object(mine)] == list(_each())
    for give in (hvd.broadcast_object, hvd.allgather_object):
        with pytest.raises(ValueError, match="object of rank 0, a lock, cannot be pickled"):
            give(1 if hvd.rank() else threading.Lock())
    with pytest.raises(NotImplementedError, match="tf.function cannot"):
        tf.function(lambda: hvd.broadcast_object(1))()


def ranks_that_disagree_fail_alike_and_go_on():
    if hvd.size() > 1:
        for wrong in (tf.ones([hvd.rank() + 1]), tf.ones([1], tf.float32 if hvd.rank() else
                                                         tf.float64)):
            with pytest.raises(tf.errors.FailedPreconditionError, match="wrong"):
                hvd.allreduce(wrong, name="wrong")
            with pytest.raises(tf.errors.FailedPreconditionError, match="wrong"):
                tf.function(lambda one: hvd.allreduce(one, name="wrong"))(wrong)
    assert _equal(hvd.allreduce(tf.ones(2), op=hvd.Sum, name="wrong"), [hvd.size()] * 2)


def wrong_arguments_are_named():
    with pytest.raises(tf.errors.InvalidArgumentError, match="dtype string is not supported"):
        hvd.allreduce(tf.constant(["text"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="splits"):
        hvd.alltoall(tf.ones([hvd.size()]), [1] * (hvd.size() + 1))
    for wrong in (lambda: hvd.allreduce(tf.ones(1), op=7.5), lambda: hvd.allreduce(
            tf.ones(1), True, op=hvd.Sum), lambda: hvd.allreduce(tf.ones(1), process_set=3),
                  lambda: hvd.broadcast(tf.ones(1), None), lambda: hvd.allreduce(
                      tf.ones(1), compression=hvd.Compression.scalecom(100)),
                  lambda: hvd.allreduce(tf.ones(1), compression=3)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(tf.errors.InvalidArgumentError):
        hvd.broadcast(tf.ones(1), hvd.size())


def a_refused_call_without_a_name_may_be_repeated():
    ones, rows = tf.ones([hvd.size()]), [1] * hvd.size()
    if hvd.rank() == 0:
        with pytest.raises(tf.errors.InvalidArgumentError, match="splits"):
            hvd.alltoall(ones, rows + [1])
    assert _equal(hvd.alltoall(ones, rows)[1], rows)


def a_compiled_function_hears_of_the_remedy():
    with pytest.raises(NotImplementedError, match="jit_compile"):
        tf.function(hvd.allreduce, jit_compile=True)(tf.ones(1))


def threads_may_call_beside_each_other():
    results = {}

    def run(number):
        for _ in range(20):
            results[number] = hvd.allreduce(tf.fill([5], float(number)), op=hvd.Sum,
                                            name=f"thread.{number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in results.items():
        assert _equal(result, [float(number * hvd.size())] * 5)


def torch_has_the_same_session():
    import torch

    import scalecom.torch
    assert scalecom.torch.rank() == hvd.rank() and scalecom.torch.is_initialized()
    before = hvd.stats()["tensors_completed"]
    assert scalecom.torch.allreduce(torch.ones(2), op=scalecom.torch.Sum).tolist() == (
        hvd.allreduce(tf.ones(2), op=hvd.Sum).numpy().tolist())
    assert hvd.stats()["tensors_completed"] == before + 2


def before_init_an_operation_says_so():
    hvd.shutdown()
    try:
        with pytest.raises(tf.errors.FailedPreconditionError, match="init"):
            hvd.allreduce(tf.ones(1))
    finally:
        hvd.init()
    assert _equal(hvd.allreduce(tf.ones(1), op=hvd.Sum), [hvd.size()])


def adasums_of_orthogonal_tensors_add_and_of_equal_ones_stay():
    mine = tf.one_hot(hvd.rank(), hvd.size()) * (hvd.rank() + 1.0)
    assert _equal(hvd.allreduce(mine, op=hvd.Adasum), [rank + 1.0 for rank in _each()])
    with tf.GradientTape() as tape:
        tape.watch(mine)
        reduced = hvd.allreduce(mine, op=hvd.Adasum)
    assert numpy.allclose(tape.gradient(reduced, mine), 1.0)  # Of equal ones.
    with pytest.raises(tf.errors.InvalidArgumentError):
        hvd.allreduce(tf.range(3), op=hvd.Adasum)


def a_rank_without_data_joins():
    """And calls without a name match again behind it, though the ranks made unequal numbers of them."""
    for _ in range(hvd.rank()):
        hvd.allreduce(tf.ones(2))
        rows = hvd.allgather(tf.fill([2, 1], hvd.rank()), name="rows")
        assert rows.shape[0] % 2 == 0
    last = hvd.join()
    assert last.dtype == tf.int32 and int(last) == hvd.size() - 1
    assert _equal(hvd.allreduce(tf.ones(2), op=hvd.Sum), [hvd.size()] * 2)
    with pytest.raises(NotImplementedError, match="outside of tf.function"):
        tf.function(hvd.join)()


def a_bad_member_is_refused_and_nothing_is_submitted():
    good, before = tf.ones([1000, 10]), hvd.stats()["tensors_completed"]
    for call, bad in ((hvd.grouped_allgather, tf.constant(1.0)), (hvd.grouped_reducescatter, tf.constant([True]))):
        for run in (call, tf.function(call)):
            with pytest.raises(tf.errors.OpError, match=r"refused\.1: .*(scalar|bool)"):
                run([good, bad, good], name="refused")
    assert _equal(hvd.allreduce(tf.ones(3), op=hvd.Sum), [hvd.size()] * 3)
    assert hvd.stats()["tensors_completed"] == before + 1


def objects_of_other_types_travel():
    assert hvd.allgather_object(None if hvd.rank() else {1: 2}) == [{1: 2}] + [None] * (hvd.size() - 1)
    assert hvd.broadcast_object(None if hvd.rank() else [3]) == [3]


def averages_of_integer_slices_are_cut_off():
    slices = tf.IndexedSlices(tf.constant([[7, -7]]), tf.constant([hvd.rank()]), tf.constant([9, 2]))
    reduced = hvd.allreduce(slices)
    assert reduced.values.dtype == tf.int32
    assert _equal(reduced.values, [[int(7 / hvd.size()), int(-7 / hvd.size())]] * hvd.size())
