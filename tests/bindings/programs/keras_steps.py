"""Claims about scalecom.keras: steps of several backward passes, Adasum, and epochs that a reset has interrupted.
Each function is called on every rank, in this order, on the back end that KERAS_BACKEND names."""

import functools
import gc
import pathlib
import tempfile
import types
import warnings
import weakref

import keras
import numpy
import pytest

import scalecom.keras as hvd
from programs.keras_training import _assert_equal_ranks, _assert_near, _data, _fit, _mine, _model
from scalecom.exceptions import HorovodInternalError



def adasum_reduces_what_a_step_does():
    start = numpy.array([1.0, 2.0, 3.0], "float32")
    gradient = numpy.array([1.0, -2.0, 0.5], "float32") * (hvd.rank() + 1.0) + 3.0 * hvd.rank()
    make = functools.partial(keras.optimizers.SGD, 0.1, momentum=0.9)
    for passes in (1, 2):
        variable, local, alone = (keras.Variable(start, name=f"delta{passes}{kind}") for kind in "vla")
        optimizer, plain = hvd.DistributedOptimizer(make(), op=hvd.Adasum, backward_passes_per_step=passes), make()
        optimizer.register_local_var(local)
        local_alone, local_plain = keras.Variable(start, name=f"delta{passes}b"), make()
        before = start
        for _ in range(2):
            local_plain.apply([keras.ops.convert_to_tensor(passes * gradient / hvd.size())], [local_alone])
            alone.assign(before)
            plain.apply([keras.ops.convert_to_tensor(passes * gradient)], [alone])
            own = keras.ops.convert_to_numpy(alone)
            wanted = before + keras.ops.convert_to_numpy(hvd.allreduce(
                keras.ops.convert_to_tensor(own - before), op=hvd.Adasum, name="wanted"))
            for _ in range(passes):
                optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 2, [variable, local])
            before = keras.ops.convert_to_numpy(variable)
            assert numpy.allclose(before, wanted, rtol=1e-5), (before, wanted)
            assert numpy.allclose(local.numpy(), local_alone.numpy(), rtol=1e-5)
        assert len({value.tobytes() for value in hvd.allgather_object(before, "adasum")}) == 1
    model, alone = _model(hvd.DistributedOptimizer(make(), op=hvd.Adasum)), _model(make())
    starts = [keras.ops.convert_to_numpy(weight) + 0.0 for weight in model.weights]
    for one in (model, alone):
        _fit(one, _mine(), 240)
    for weight, own, start in zip(model.weights, alone.weights, starts):
        change = keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(own) - start)
        wanted = start + keras.ops.convert_to_numpy(hvd.allreduce(change, op=hvd.Adasum, name="wanted"))
        assert numpy.allclose(keras.ops.convert_to_numpy(weight), wanted, atol=1e-6)
    _assert_equal_ranks(model)
    with pytest.raises(ValueError, match="needs every element"):
        hvd.DistributedOptimizer(make(), op=hvd.Adasum, compression=hvd.Compression.scalecom(rate=4))
    for inner in (make(use_ema=True), keras.optimizers.LossScaleOptimizer(make(use_ema=True))):
        with pytest.raises(ValueError, match="use_ema is True and op is Adasum"):
            hvd.DistributedOptimizer(inner, op=hvd.Adasum)


def torchs_adasum_is_made_where_it_can_be():
    """Of CUDA tensors in the host's memory, to which place_for()'s compression brings them."""
    if keras.backend.backend() != "torch":
        return
    from scalecom.torch import mpi_ops
    place_for, ops = mpi_ops.place_for, []
    mpi_ops.place_for = lambda op, tensors, compression: ops.append(op) or mpi_ops._ThroughHost(compression)
    try:
        variable = keras.Variable(numpy.ones(3, "float32"), name="placed")
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), op=hvd.Adasum).apply(
            [keras.ops.convert_to_tensor(numpy.ones(3, "float32"))], [variable])
    finally:
        mpi_ops.place_for = place_for
    assert ops == [hvd.Adasum]
    assert numpy.allclose(keras.ops.convert_to_numpy(variable), 0.5)


def all_gradients_of_torch_are_over_with_an_error_of_the_first():
    if keras.backend.backend() != "torch" or hvd.size() == 1:
        return
    import torch
    reducer = hvd.DistributedOptimizer(keras.optimizers.SGD())._scalecom

    def reduce(count):
        reducer._reduce_all([torch.ones(count), torch.ones(8_000_000)], ["differs", "long"], hvd.Sum, 1.0, 1.0)

    with pytest.raises(hvd.HorovodInternalError, match="differs"):
        reduce(2 + hvd.rank())
    reduce(2)


def a_local_variable_lives_as_long_as_it_is_known_as_one():
    """Another one may not get its place in memory, and be taken for it."""
    optimizer, variable = hvd.DistributedOptimizer(keras.optimizers.SGD()), keras.Variable([1.0], name="local")
    optimizer.register_local_var(variable)
    variable = weakref.ref(variable)
    gc.collect()
    assert variable() is not None


def adasum_leaves_no_constraint():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(4, kernel_constraint="unit_norm", name="unit")])
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), op=hvd.Adasum),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    _fit(model, _mine(), 24 // hvd.size())
    _assert_equal_ranks(model)
    assert numpy.allclose(numpy.linalg.norm(model.get_weights()[0], axis=0), 1.0, atol=1e-5)


class _Batches(keras.callbacks.Callback):
    """What state.batch was after each batch, epoch by epoch."""

    def __init__(self, state):
        super().__init__()
        self._state, self.seen = state, []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append([])

    def on_train_batch_end(self, batch, logs=None):
        self.seen[-1].append(self._state.batch)


class _Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


class _Part(keras.utils.PyDataset):
    def __len__(self):
        return 10

    def __getitem__(self, place):
        return tuple(one[place * 24 // hvd.size():(place + 1) * 24 // hvd.size()] for one in _mine())


def an_epoch_that_a_reset_interrupted_is_made_to_its_end():
    whole = list(range(1, 11))
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    arrays = {**dict(zip("xy", _mine())), "batch_size": 24 // hvd.size()}
    for data, done, stop_place, wanted in (
            (arrays, 7, None, [[8, 9, 10], whole, whole]), ({**arrays, "steps_per_epoch": 10}, 7, None,
                                                            [[8, 9, 10], whole, whole]),
            ({"x": _Part()}, 7, None, [[8, 9, 10], whole, whole]),
            (arrays, 12, None, [[13], whole, whole]),  # Of fewer ranks with more batches in an epoch.
            (arrays, 9, 0, [[10]]), (arrays, 9, 2, [[10]])):  # Another's wish to stop holds.
        state = hvd.elastic.KerasState(model, epoch=0, batch=done)
        batches = _Batches(state)
        callbacks = [hvd.elastic.UpdateBatchStateCallback(state), hvd.elastic.UpdateEpochStateCallback(state), batches]
        if stop_place is not None:
            callbacks.insert(stop_place, _Stop())

        @hvd.elastic.run
        def train(state):
            state.model.fit(**data, epochs=3 - state.epoch, shuffle=False, verbose=0, callbacks=callbacks)

        train(state)
        assert batches.seen == wanted, batches.seen
        assert (state.epoch, state.batch) == (len(wanted), 0)
    _assert_equal_ranks(model)


def passes_are_added_up_and_reduced_once_in_a_step():
    sgd = functools.partial(keras.optimizers.SGD, momentum=0.9)
    alone = _model(sgd(0.1))
    _fit(alone, _data(), 48)
    for rate, is_average in ((0.1, True), (0.05, False)):
        optimizer = hvd.DistributedOptimizer(sgd(rate), backward_passes_per_step=2,
                                             average_aggregated_gradients=is_average)
        model = _model(optimizer)
        before = hvd.stats()["tensors_completed"]
        _fit(model, _mine(), 24 // hvd.size())
        assert hvd.stats()["tensors_completed"] - before == 5 * len(model.weights)
        assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 5
        _assert_near(model, alone)
        _assert_equal_ranks(model)


def a_step_half_way_is_in_no_file_and_given_up_by_a_broadcast():
    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp(), 0, "folder"))
    own, passes = str(folder / f"{hvd.rank()}.keras"), {"backward_passes_per_step": 4}
    model = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), **passes))
    _fit(model, _mine(), 24 // hvd.size())
    model.save(own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, again = keras.models.load_model(own), hvd.load_model(own, **passes)
    assert [int(keras.ops.convert_to_numpy(one.optimizer.iterations)) for one in (plain, again)] == [2, 2]
    _fit(model, _mine(), 24 // hvd.size())  # Goes on with the two batches that were left over.
    _fit(again, _mine(), 24 // hvd.size())
    callback = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    _fit(again, _mine(), 24 // hvd.size(), [callback])
    _assert_equal_ranks(again)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 5
    assert int(keras.ops.convert_to_numpy(again.optimizer.iterations)) == 6
    for _ in range(2):
        model.load_weights(own)
        _fit(model, _mine(), 24 // hvd.size())
        assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 4
    eager, weight = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), **passes)).optimizer, (
        keras.Variable(numpy.zeros(2, "float32"), name="eager"))
    for _ in range(6):
        eager.apply([keras.ops.ones(2) * (hvd.rank() + 1.0)], [weight])
    assert numpy.allclose(keras.ops.convert_to_numpy(weight), -4 * (hvd.size() + 1) / 2)
    hvd.barrier()


def passes_of_keras_itself_are_told_of():
    optimizer = functools.partial(keras.optimizers.SGD, 0.1, gradient_accumulation_steps=2)
    for inner in (optimizer(), keras.optimizers.LossScaleOptimizer(optimizer())):
        with pytest.raises(ValueError, match="gradient_accumulation_steps=2; give one of them"):
            hvd.DistributedOptimizer(inner, backward_passes_per_step=2)
    with pytest.raises(ValueError, match="backward_passes_per_step is 0"):
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), backward_passes_per_step=0)
    with pytest.warns(UserWarning, match="are reduced in each batch.*backward_passes_per_step=2"):
        model, alone = _model(hvd.DistributedOptimizer(optimizer())), _model(keras.optimizers.SGD(0.1))
    _fit(model, _mine(), 24 // hvd.size())
    _fit(alone, _data(), 48)
    _assert_near(model, alone)


def a_second_build_leaves_the_sums_that_a_graph_has():
    weights = tempfile.mkdtemp() + "/own.weights.h5"
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), backward_passes_per_step=4))
    _fit(model, _mine(), 24 // hvd.size())
    model.save_weights(weights)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(weights)
    _fit(model, _mine(), 24 // hvd.size())
    assert int(model.optimizer.iterations.numpy()) == 4  # The two batches that were left over are given up.


def sums_are_no_variables_of_the_optimizer_where_no_step_has_them_as_arguments():
    counts = []
    for passes in (1, 2):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1), backward_passes_per_step=passes)
        optimizer.build([keras.Variable(numpy.zeros(2, "float32"), name=f"counted{passes}")])
        counts.append(len(optimizer.variables))
    assert counts[1] - counts[0] == (2 if keras.backend.backend() == "jax" else 0)


def _pair(name, **settings):
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), backward_passes_per_step=2, **settings)
    pair = [keras.Variable(numpy.zeros(2, "float32"), name=f"{name}{place}") for place in "ab"]
    optimizer.build(pair)
    return optimizer, pair


def a_gradient_that_a_pass_lacks_is_of_the_step_all_the_same():
    ones = keras.ops.ones(2)
    optimizer, pair = _pair("lacking")
    for gradients, variables, wanted in (
            ([ones, ones], pair, (0, 0)), ([ones, None], pair, (-2, -1)),
            ([ones, None], pair, (-2, -1)), ([ones, None], pair, (-4, -1)),
            ([None, ones], pair, (-4, -1)), ([ones], pair[:1], (-5, -2))):  # One is frozen in between.
        optimizer.apply(gradients, variables)
        assert [float(one.numpy()[0]) for one in pair] == list(wanted)
    with pytest.raises(ValueError, match="was not built with .*stranger"):
        optimizer.apply([ones], [keras.Variable(numpy.zeros(2, "float32"), name="stranger")])
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf
    for order in ((True, False, False, False), (False, True)):
        optimizer, pair = _pair(f"graph{len(order)}")
        apply = tf.function(lambda has_both: optimizer.apply([ones, ones if has_both else None], pair), autograph=False)
        if order[0]:
            for has_both in order:
                apply(has_both)
            assert [float(one.numpy()[0]) for one in pair] == [-4, -1]
        else:
            apply(False)
            with pytest.raises(ValueError, match="b has a gradient, and had none when an earlier graph"):
                apply(True)


def sparse_gradients_are_added_up():
    words = numpy.random.default_rng(5).integers(0, 20, (96, 3)).astype("int32")
    labels = (words.sum(1) % 4).astype("int32")
    models = []
    for optimizer in (hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), backward_passes_per_step=2,
                                               average_aggregated_gradients=True), keras.optimizers.SGD(0.5)):
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(20, 8, name="table"),
                                  keras.layers.Flatten(), keras.layers.Dense(4, name="out")], name="words")
        model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        models.append(model)
    _fit(models[0], (words[hvd.rank()::hvd.size()], labels[hvd.rank()::hvd.size()]), 12 // hvd.size())
    _fit(models[1], (words, labels), 24)
    _assert_near(*models)
    _assert_equal_ranks(models[0])


def what_torch_compiles_calls_the_reduction():
    if keras.backend.backend() != "torch":
        return
    import torch
    for compression, rate in ((hvd.Compression.none, 1), (hvd.Compression.scalecom(rate=2, min_elements=1), 2)):
        variable = keras.Variable(numpy.zeros((8, 8), "float32"), name=f"compiled{rate}")
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=compression)
        optimizer.build([variable])
        apply = torch.compile(lambda gradient: optimizer.apply([gradient], [variable]), backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Dynamo warns of what it traces in the Python below.
            for _ in range(4):
                apply(torch.full((8, 8), float(hvd.rank())))
        changes = keras.ops.convert_to_numpy(variable)
        assert rate > 1 or numpy.allclose(changes, -2.0 * (hvd.size() - 1)), changes
        assert len({one.tobytes() for one in hvd.allgather_object(changes, "compiled")}) == 1


def a_step_that_failed_ends_fit():
    """On JAX Keras takes no notice of it, and would go on."""
    choice = hvd.Compression.fp16 if hvd.rank() == 0 else hvd.Compression.none
    if hvd.size() == 1:
        return
    for callback in (hvd.callbacks.BroadcastGlobalVariablesCallback(0),
                     hvd.elastic.UpdateEpochStateCallback(types.SimpleNamespace(epoch=0))):
        model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), compression=choice))
        with pytest.raises(Exception, match="dtype differs between ranks"):
            _fit(model, _mine(), 24, [callback], epochs=2)
    assert float(hvd.allreduce(1.0, name="after", op=hvd.Sum)) == hvd.size()


def a_layer_that_other_ranks_lack_is_told_of_at_once():
    if hvd.size() == 1:
        return
    layers = [keras.layers.Dense(4, name=f"layer{place}") for place in range(1 if hvd.rank() == 0 else 2)]
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)),
                   own=keras.Sequential([keras.Input((32,)), *layers], name="uneven"))
    with pytest.raises(HorovodInternalError, match=r"the ranks have \[4, 6.* variables of the model and its optimizer, by rank"):
        _fit(model, _mine(), 24, [hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
    assert float(hvd.allreduce(1.0, name="after", op=hvd.Sum)) == hvd.size()
