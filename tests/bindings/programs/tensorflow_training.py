"""Claims about tapes, optimizers and variables of scalecom.tensorflow. Each function is called on every
rank, in this order."""

import importlib
import io
import json
import os
import tempfile
import unittest

import keras
import numpy
import pytest
import tensorflow as tf

import scalecom.horovod
import scalecom.tensorflow as hvd
from programs import horovod_surface
from scalecom import basics
from scalecom.arrays import residuals


def _equal(one, other):
    return numpy.array_equal(numpy.asarray(one), numpy.asarray(other))


def _total():
    return sum(range(1, hvd.size() + 1))


def _variables(count=3):
    return [tf.Variable(tf.fill([place + 1, 2], 1.0), name=f"v{place}") for place in range(count)]


def _loss(variables):
    """Its gradients are this rank's number, from 1 on, everywhere."""
    return sum(tf.reduce_sum(variable) for variable in variables) * float(hvd.rank() + 1)


def a_tape_averages_or_sums_its_gradients():
    variables = _variables()
    for op, wanted in ((hvd.Average, _total() / hvd.size()), (hvd.Sum, _total())):
        def gradients():
            with hvd.DistributedGradientTape(tf.GradientTape(), op=op) as tape:
                loss = _loss(variables[:2])
            return tape.gradient(loss, {"a": variables[:2], "b": (variables[2],)})

        for run in (gradients, tf.function(gradients)):
            result = run()
            assert result["b"] == (None,)
            for gradient, variable in zip(result["a"], variables):
                assert gradient.shape == variable.shape
                assert numpy.allclose(gradient, wanted, rtol=1e-7), (op, gradient)


def a_thousand_gradients_are_one_submit():
    variables = [tf.Variable([1.0, 2.0]) for _ in range(1000)]

    @tf.function
    def step():
        with hvd.DistributedGradientTape(tf.GradientTape(), op=hvd.Sum) as tape:
            loss = _loss(variables)
        return tape.gradient(loss, variables)

    step()
    hvd.barrier()
    before = hvd.stats()
    gradients = step()
    after = hvd.stats()
    assert all(_equal(gradient, [_total()] * 2) for gradient in gradients)
    assert after["tensors_completed"] - before["tensors_completed"] == 1000
    assert after["batches_executed"] - before["batches_executed"] <= 2


def what_is_divided_before_is_multiplied_afterwards():
    variables = _variables()
    with tf.GradientTape() as tape:
        loss = _loss(variables)
    tape = hvd.DistributedGradientTape(tape, gradient_predivide_factor=4.0, groups=[variables[:2]])
    for gradient in tape.gradient(loss, variables):
        assert numpy.allclose(gradient, _total() / hvd.size(), rtol=1e-6)
    for wrong in ({"op": hvd.Sum, "gradient_predivide_factor": 2.0}, {"op": hvd.Max}, {"gradient_predivide_factor": 0},
                  {"groups": [[variables[0]], [variables[0]]]}, {"num_groups": -1},
                  {"compression": hvd.Compression.scalecom}):
        with pytest.raises(ValueError):
            hvd.DistributedGradientTape(tf.GradientTape(), **wrong)


def sparse_gradients_stay_so_unless_they_are_to_be_dense():
    table = tf.Variable(tf.ones([hvd.size() + 1, 2]), name="table")
    for as_dense in (False, True):
        with hvd.DistributedGradientTape(tf.GradientTape(), sparse_as_dense=as_dense) as tape:
            loss = tf.reduce_sum(tf.gather(table, [hvd.rank()])) * float(hvd.size())
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices) != as_dense
        wanted = numpy.ones((hvd.size() + 1, 2))
        wanted[-1] = 0
        assert numpy.allclose(tf.convert_to_tensor(gradient), wanted, rtol=1e-6)


def local_variables_keep_their_gradients():
    variables = _variables()
    mine = float(hvd.rank() + 1)
    for scaled in (True, False):
        with hvd.DistributedGradientTape(tf.GradientTape(), scale_local_gradients=scaled) as tape:
            tape.register_local_var(variables[1])
            loss = _loss(variables)
        gradients = tape.gradient(loss, variables)
        assert numpy.allclose(gradients[1], mine / hvd.size() if scaled else mine, rtol=1e-6)
        assert numpy.allclose(gradients[0], _total() / hvd.size(), rtol=1e-6)
    layer = keras.layers.Dense(2)
    layer.build([None, 3])
    with tf.GradientTape() as tape:
        loss = _loss([variables[0], *layer.trainable_weights])
    tape = hvd.PartialDistributedGradientTape(tape, local_layers=layer, scale_local_gradients=False)
    gradients = tape.gradient(loss, [variables[0], *(one.value for one in layer.trainable_weights)])
    assert numpy.allclose(gradients[0], _total() / hvd.size(), rtol=1e-6)
    assert _equal(gradients[2], [mine] * 2)


def gradients_may_be_known_by_their_places():
    variables = [tf.Variable(tf.ones([2]), name=f"{name}_of_rank_{hvd.rank()}") for name in ("shared", "own")]
    with hvd.DistributedGradientTape(tf.GradientTape(persistent=True), scale_local_gradients=False) as tape:
        loss = _loss(variables)
    tape.register_local_source(variables[1])
    average = _total() / hvd.size()
    assert numpy.allclose(tape.gradient(loss, variables, use_generic_names=True)[0], average, rtol=1e-6)
    (own,), (shared,) = tape.get_local_and_global_gradients(loss, variables, use_generic_names=True)
    assert own[0] is variables[1] and _equal(own[1], [hvd.rank() + 1.0] * 2)
    assert shared[0] is variables[0] and numpy.allclose(shared[1], average, rtol=1e-6)


def horovods_names_are_here():
    tape = hvd.DistributedGradientTape(tf.GradientTape())
    problems = [*horovod_surface.problems_of(hvd, "horovod.tensorflow", horovod_surface.TENSORFLOW),
                *horovod_surface.problems_of(tape, "tape", horovod_surface.TAPE)]
    assert not problems, problems


def horovods_own_allreduce_sums():
    scalecom.horovod.install()
    operations = importlib.import_module("horovod.tensorflow.mpi_ops")
    assert _equal(operations._allreduce(tf.constant([hvd.rank() + 1.0]), "own", prescale_factor=2.0), [2.0 * _total()])
    assert _equal(operations._allreduce(tf.constant([hvd.rank() + 1.0]), op=operations.Average), [_total() / hvd.size()])


def scalecom_sends_little_and_owes_the_rest():
    variable = tf.Variable(tf.zeros([64, 64]), name="compressed")
    compression = hvd.Compression.scalecom(64, rates={"compressed": 64, "*": None})
    total = numpy.zeros((64, 64))
    steps = 64 * 3

    @tf.function
    def step(factor):
        with hvd.DistributedGradientTape(tf.GradientTape(), op=hvd.Sum,
                                         compression=compression) as tape:
            loss = tf.reduce_sum(variable * factor)
        return tape.gradient(loss, variable)

    before = hvd.stats()["compressed_tensors"]
    for count in range(steps):
        gradient = step(tf.fill([64, 64], 1.0 + count % 2)).numpy()
        assert numpy.count_nonzero(gradient) <= 64 * 64 // 64 * (hvd.size() if count == 0 else 1)
        total += gradient
    if hvd.size() > 1:
        assert hvd.stats()["compressed_tensors"] == before + steps
        assert 0 < total.sum() <= 1.5 * steps * hvd.size() * 64 * 64
    assert hvd.compression_stats()["compressed"]["step"] == 99


def _warnings():
    """A context in which there is one at least; its output has their texts."""
    return unittest.TestCase().assertLogs("scalecom", "WARNING")


def variables_of_one_name_are_told_of():
    compression = hvd.Compression.scalecom(8)

    def reduce(*variables):
        with hvd.DistributedGradientTape(tf.GradientTape(), compression=compression) as tape:
            loss = tf.add_n([tf.reduce_sum(variable) for variable in variables])
        return tape.gradient(loss, list(variables))

    first, second = (tf.Variable(tf.zeros([64, 64]), name="turns") for _ in range(2))
    reduce(first)
    reduce(first)
    with _warnings() as logs:
        tf.function(reduce)(second)
        reduce(first)
    assert len(logs.output) == 1 and "turns: another parameter" in logs.output[0] and "name=" in logs.output[0]
    with unittest.TestCase().assertNoLogs("scalecom", "WARNING"):
        reduce(*(tf.Variable(tf.zeros([64, 64]), name="together") for _ in range(2)))


def slices_of_unknown_shape_are_never_compressed():
    @tf.custom_gradient
    def look_up(values):
        return tf.gather(values, [0]), lambda change: tf.IndexedSlices(change, tf.constant([0]))

    for _ in range(2):
        table = tf.Variable(tf.zeros([64, 64]), name="table")
        with hvd.DistributedGradientTape(tf.GradientTape(), compression=hvd.Compression.scalecom(8)) as tape:
            loss = tf.reduce_sum(look_up(table))
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices) and len(gradient.indices) == hvd.size()


def residuals_of_a_tape_are_in_a_checkpoint_or_left_as_they_are():
    with pytest.raises(ValueError, match="variables is empty; .* once it is built"):
        hvd.SavedResiduals(keras.Sequential([keras.layers.Dense(3)]).trainable_variables)
    variable = tf.Variable(tf.zeros([64, 64]), name="checkpointed")
    slopes = tf.random.stateless_normal([64, 64], [hvd.rank(), 1])
    compression = hvd.Compression.scalecom(rates={"checkpointed": 8, "*": None}, warmup_steps=0)

    def step():
        with hvd.DistributedGradientTape(tf.GradientTape(), compression=compression) as tape:
            loss = tf.reduce_sum(variable * slopes)
        return tape.gradient(loss, [variable])[0].numpy()

    def owed():
        return residuals.state()["checkpointed"]

    for _ in range(3):
        step()
    kept = hvd.SavedResiduals([variable])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tf.train.Checkpoint(variable=variable, residuals=kept)
        path = checkpoint.write(os.path.join(folder, "own"))
        wanted = [step() for _ in range(3)]
        checkpoint.read(path).assert_consumed()
    assert all(_equal(step(), one) for one in wanted)
    if hvd.size() == 1:
        return
    before = owed()
    with numpy.load(io.BytesIO(kept.serialize())) as saved:
        parts = dict(saved)
    assert json.loads(parts["facts"].tobytes())["rank"] == hvd.rank()
    for key, other, message in (("0", parts["0"] * numpy.nan, "4096 values of 4096 that are NaN or Inf"),
                                ("0", parts["0"][1:], "shape .63, 64.*is this the checkpoint of another"),
                                ("facts", parts["facts"][1:], "the residuals in the checkpoint cannot be read")):
        packed = io.BytesIO()
        numpy.savez(packed, **{**parts, key: other})
        with pytest.raises(ValueError, match=message):
            kept.deserialize(packed.getvalue())
        assert _equal(owed(), before)
    with _warnings() as told:
        hvd.SavedResiduals([tf.Variable([1.0], name="stranger")]).serialize()
    assert "no variable of which there is a residual: it has ['stranger'], and" in told.output[0]
    with _warnings() as told, pytest.MonkeyPatch.context() as early:
        early.setattr(basics, "is_initialized", lambda: False)
        kept.deserialize(kept.serialize())
    assert "in the checkpoint are left out, as scalecom is not initialized: call hvd.init()" in told.output[0]
    assert _equal(owed(), before)
    # Of rank 0: what the others would owe is not theirs.
    kept.deserialize(hvd.broadcast_object(kept.serialize(), 0))
    assert _equal(owed(), before if hvd.rank() == 0 else 0 * before)


def residuals_of_all_former_ranks_are_taken_up():
    class Given(tf.train.experimental.PythonState):
        serialize = deserialize = lambda self, *_: self.packed

    def write(folder, former_size):  # Rank r of the former job owes r.
        for rank in range(former_size):
            packed, given = io.BytesIO(), Given()
            facts = json.dumps({**json.loads(parts["facts"].tobytes()), "rank": rank, "size": former_size}).encode()
            numpy.savez(packed, **{"facts": numpy.frombuffer(facts, "uint8"), "0": numpy.full_like(parts["0"], rank)})
            given.packed = packed.getvalue()
            yield tf.train.Checkpoint(residuals=given).write(os.path.join(folder, f"{former_size}.{rank}"))

    variable = tf.Variable(tf.zeros([64, 64]), name="taken_up")
    hvd.allreduce(variable, name="taken_up", compression=hvd.Compression.scalecom(8))
    kept, size = hvd.SavedResiduals([variable]), hvd.size()
    parts = dict(numpy.load(io.BytesIO(kept.serialize())))
    with tempfile.TemporaryDirectory() as folder:
        for former, arguments, owed in ((size, {}, hvd.rank()), (size + 1, {}, size / 2),
                                        (size + 1, {"op": hvd.Sum}, (size + 1) / 2)):
            kept.load_checkpoints(write(folder, former), **arguments)
            assert numpy.allclose(residuals.state()["taken_up"], owed)
        with pytest.raises(ValueError, match="has no residuals as 'other'"):
            kept.load_checkpoints(write(folder, size), "other")


def a_rate_for_nobody_and_an_adasum_of_gradients_are_refused():
    with pytest.raises(ValueError, match="op is Adasum; .* DistributedOptimizer"):
        hvd.DistributedGradientTape(tf.GradientTape(), op=hvd.Adasum)
    compression = hvd.Compression.scalecom(rates={"absent*": 7})
    with hvd.DistributedGradientTape(tf.GradientTape(), compression=compression) as tape:
        loss = _loss(variables := _variables())
    with pytest.raises(ValueError, match="absent.*matches no parameter; there are v0, v1, v2"):
        tape.gradient(loss, variables)


def _train(optimizer, variable, steps, factor=1.0):
    for _ in range(steps):
        gradient = tf.fill(variable.shape, factor * (hvd.rank() + 1))
        optimizer.apply([gradient], [variable])


def an_optimizer_applies_reduced_gradients():
    for op, mean in ((hvd.Average, _total() / hvd.size()), (hvd.Sum, float(_total()))):
        variable = keras.Variable(numpy.ones([3]), name="weight")
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), op=op)
        assert isinstance(optimizer, keras.optimizers.SGD)
        _train(optimizer, variable, 2)
        assert numpy.allclose(variable, 1.0 - 2 * 0.5 * mean, rtol=1e-6), (op, variable)
        assert int(optimizer.iterations) == 2


def adasum_reduces_what_a_step_does():
    start = tf.constant([1.0, 2.0, 3.0])
    gradient = tf.constant([1.0, -2.0, 0.5]) * (hvd.rank() + 1.0) + 3.0 * hvd.rank()
    for number, wrap in enumerate((lambda function: function, tf.function)):
        variable, alone = keras.Variable(start, name=f"delta{number}"), keras.Variable(start)
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), op=hvd.Adasum)
        plain = keras.optimizers.SGD(0.1, momentum=0.9)
        step = wrap(lambda: optimizer.apply([gradient], [variable]))
        plain.build([alone])
        optimizer.build([variable])
        for _ in range(2):
            before = tf.identity(variable.value)
            alone.assign(before)
            plain.apply([gradient], [alone])
            wanted = before + hvd.allreduce(alone.value - before, op=hvd.Adasum, name=f"wanted{number}")
            step()
            assert numpy.allclose(variable.numpy(), wanted.numpy(), rtol=1e-6)
            assert _equal(variable, hvd.broadcast(tf.identity(variable.value), 0, name=f"root{number}"))
    with pytest.raises(ValueError, match="needs every element"):
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), op=hvd.Adasum,
                                 compression=hvd.Compression.scalecom(rate=4))


def adasum_of_a_v1_optimizer_reduces_what_a_step_does():
    rank = hvd.rank()
    gradient = numpy.float32([1.0, -2.0, 0.5]) * (rank + 1.0) + 3.0 * rank
    start = numpy.float32([1.0, 2.0, 3.0])
    wanted = start.copy()
    for _ in range(2):
        wanted += hvd.allreduce(tf.constant(-0.1 * gradient), op=hvd.Adasum, name="wanted.v1").numpy()
    make = lambda passes=1: hvd.DistributedOptimizer(tf.compat.v1.train.GradientDescentOptimizer(0.1 / passes),
                                                     op=hvd.Adasum, backward_passes_per_step=passes)
    for is_resource, passes in ((True, 1), (False, 1), (True, 2)):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variable = tf.compat.v1.get_variable(f"delta.{is_resource}.{passes}", initializer=start, use_resource=is_resource)
            steps = tf.compat.v1.train.get_or_create_global_step()
            step = make(passes).minimize(tf.reduce_sum(variable * gradient), global_step=steps)
            session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.local_variables_initializer()])
            for _ in range(2 * passes):
                session.run(step)
            assert numpy.allclose(session.run(variable), wanted, atol=1e-5), (is_resource, session.run(variable), wanted)
            assert session.run(steps) == 2 * passes
    variable, optimizer = tf.Variable(start, name="delta.eager"), make()
    for _ in range(2):
        optimizer.apply_gradients([(gradient, variable)])
    assert numpy.allclose(variable, wanted, atol=1e-5)


def passes_are_added_up_before_a_step():
    for is_average in (False, True):
        variable = keras.Variable(numpy.ones([3]), name="weight")
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), backward_passes_per_step=3,
                                             average_aggregated_gradients=is_average)
        apply = tf.function(lambda: optimizer.apply([tf.fill([3], float(hvd.rank() + 1)), None],
                                                    [variable, other]))
        other = keras.Variable(numpy.ones([2]), name="other")
        before = hvd.stats()["tensors_completed"]
        for _ in range(7):
            apply()
        mean = _total() / hvd.size() * (1 if is_average else 3)
        assert numpy.allclose(variable, 1.0 - 2 * 0.5 * mean, rtol=1e-6), (is_average, variable)
        assert _equal(other, [1.0, 1.0])
        assert hvd.stats()["tensors_completed"] == before + 2
        assert int(optimizer.iterations) == 2


def _passes_of_v1(is_average, is_resource):
    """Three make a step; the gradients of the pass `number` are so many times this rank's number from 1 on."""
    v1 = tf.compat.v1
    weight = v1.get_variable("weight", initializer=tf.ones([3]), use_resource=is_resource)
    table = v1.get_variable("table", initializer=tf.ones([2, 2]), use_resource=is_resource)
    unused = v1.get_variable("unused", initializer=tf.ones([2]), use_resource=is_resource)
    steps, number = v1.train.get_or_create_global_step(), v1.placeholder(tf.float32, [])
    optimizer = hvd.DistributedOptimizer(
        v1.train.MomentumOptimizer(0.5, 0.0), backward_passes_per_step=3, average_aggregated_gradients=is_average,
        sparse_as_dense=True)
    loss = number * _loss([weight, tf.gather(table, [1])])
    pairs = [(None if gradient is None else gradient * 1.0, variable)
             for gradient, variable in optimizer.compute_gradients(loss, [weight, unused, table])]
    run = optimizer.apply_gradients(pairs, global_step=steps, name="run")
    assert "accumulation" not in str(v1.global_variables())
    assert v1.get_collection(v1.GraphKeys.TRAIN_OP) == [run]
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        before, wanted = hvd.stats()["tensors_completed"], 1.0
        for count in range(1, 8):
            session.run(run, {number: count})
            if count % 3 == 0:
                wanted -= 0.5 * (3 * count - 3) * _total() / hvd.size() / (3 if is_average else 1)
            values = session.run([weight, table, unused, steps])
            assert numpy.allclose(values[0], wanted) and numpy.allclose(values[1], [[1.0], [wanted]]), (count, values)
            assert _equal(values[2], [1.0, 1.0]) and values[3] == count
        assert hvd.stats()["tensors_completed"] == before + 4


def passes_of_a_v1_optimizer_are_added_up_before_a_step():
    v1 = tf.compat.v1
    for is_average in (False, True):
        with tf.Graph().as_default():
            _passes_of_v1(is_average, is_resource=True)
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            _passes_of_v1(is_average=True, is_resource=False)
    finally:
        v1.enable_control_flow_v2()
    make = lambda: hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(0.5), backward_passes_per_step=2)
    with tf.Graph().as_default():
        table = v1.get_variable("table", initializer=tf.ones([2, 2]))
        with pytest.raises(ValueError, match="gradient of table.* is tf.IndexedSlices.* give sparse_as_dense=True"):
            make().minimize(tf.reduce_sum(tf.gather(table, [1])))
        with pytest.raises(ValueError, match="No gradients provided"):
            make().minimize(tf.ones([]), var_list=[table])
        with pytest.raises(ValueError, match="pairs of table:0, which are not of one compute_gradients"):
            make().apply_gradients([(tf.ones([2, 2]), table)])
        with pytest.raises(ValueError, match="distributed already, with other settings"):
            hvd.DistributedOptimizer(make(), backward_passes_per_step=3)
    variable = tf.Variable([1.0])
    with pytest.raises(ValueError, match="needs a graph of tf.compat.v1"):
        make().minimize(lambda: variable * variable, var_list=[variable])


def variables_that_other_ranks_lack_are_told_of_at_once():
    if hvd.size() == 1:
        return
    variables = [tf.Variable([1.0]) for _ in range(1 if hvd.rank() == 0 else 2)]
    with pytest.raises(tf.errors.FailedPreconditionError, match=r"the ranks have \[1, 2.* variables, by rank"):
        hvd.broadcast_variables(variables, 0)
    assert hvd.allreduce(tf.ones(2), op=hvd.Sum).numpy().tolist() == [hvd.size()] * 2


def a_model_trains_with_the_same_weights_everywhere():
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(16, activation="relu"),
                              keras.layers.Dense(1)])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
    hvd.broadcast_variables(model.variables, 0)
    values = numpy.random.default_rng(hvd.rank()).normal(size=(256, 8)).astype("float32")
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    losses = model.fit(values, values.sum(axis=1), batch_size=32, epochs=8, verbose=0)
    losses = losses.history["loss"]
    assert losses[-1] < losses[0] / 2
    mine = numpy.concatenate([weight.numpy().ravel() for weight in model.trainable_variables])
    for weights in hvd.allgather_object(mine):
        assert _equal(weights, mine)


def batches_of_all_ranks_are_normalized_together():
    rank = hvd.rank()
    sizes = [0 if one == 1 else 3 + one for one in range(hvd.size())]
    everything = keras.random.normal([sum(sizes), 4, 2], 100.0, 3.0, seed=1)
    factors = keras.random.normal([sum(sizes), 4, 2], seed=2)
    mine = slice(sum(sizes[:rank]), sum(sizes[:rank + 1]))

    def run(layer, values, weights):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = layer(values, training=True)
            loss = tf.reduce_sum(result * weights)
        return result, tape.gradient(loss, values)

    reference = keras.layers.BatchNormalization()
    wanted = run(reference, everything, factors)
    for wrap in (lambda function: function, tf.function):
        layer = hvd.SyncBatchNormalization()
        layer.build([None, 4, 2])
        got = wrap(run)(layer, everything[mine], factors[mine])
        for one, other in zip(got, wanted):
            assert numpy.allclose(one, other[mine], rtol=1e-3, atol=1e-3), (one, other[mine])
        for one, other in zip(layer.non_trainable_variables, reference.non_trainable_variables):
            assert numpy.allclose(one, other, rtol=1e-5)
    again = hvd.SyncBatchNormalization.from_config(layer.get_config())
    assert again.momentum == layer.momentum
    alone = layer(tf.ones([1, 4, 2]), training=False)  # The others need not take part.
    assert alone.shape == [1, 4, 2]


def an_optimizer_of_the_first_version_reduces():
    with tf.Graph().as_default():
        variable = tf.compat.v1.get_variable("old", initializer=tf.ones([2]), use_resource=True)
        optimizer = hvd.DistributedOptimizer(tf.compat.v1.train.GradientDescentOptimizer(0.5))
        train = optimizer.minimize(tf.reduce_sum(variable) * float(hvd.rank() + 1))
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            session.run(train)
            assert numpy.allclose(session.run(variable), 1.0 - 0.5 * _total() / hvd.size())
        assert hvd.DistributedOptimizer(optimizer) is optimizer
        with pytest.raises(ValueError, match="distributed already, with other settings"):
            hvd.DistributedOptimizer(optimizer, op=hvd.Sum)
    with pytest.raises(ValueError, match="allowed are Keras 3"):
        hvd.DistributedOptimizer("sgd")
