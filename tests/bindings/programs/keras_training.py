"""Claims about scalecom.keras on the back end that KERAS_BACKEND names. Each function is called on every
rank, in this order."""

import functools
import pathlib
import tempfile
import types
import unittest

import keras
import numpy
import pytest

import scalecom.keras as hvd
from programs import horovod_surface
from scalecom import basics, process_sets
from scalecom.keras import backend
from scalecom.residuals import compression_betas, compression_steps
from scalecom.arrays import residuals


def _model(optimizer, seed=0, own=None):
    keras.utils.set_random_seed(seed)
    model = own or keras.Sequential([keras.Input((32,)), keras.layers.Dense(64, activation="relu", name="hidden"),
                                     keras.layers.Dense(4, name="head")], name="net")
    model.compile(optimizer=optimizer, metrics=["accuracy"],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@functools.lru_cache
def _data(samples=240):
    generator = numpy.random.default_rng(3)
    features = generator.normal(size=(samples, 32)).astype("float32")
    labels = (features @ generator.normal(size=(32, 4))).argmax(1).astype("int32")
    return features, labels


def _mine(samples=240):
    features, labels = _data(samples)
    return features[hvd.rank()::hvd.size()], labels[hvd.rank()::hvd.size()]


def _fit(model, part, batch, callbacks=(), epochs=1):
    return model.fit(*part, batch_size=batch, epochs=epochs, shuffle=False, verbose=0,
                     callbacks=list(callbacks))


def _bytes_of(model):
    return b"".join(keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights)


def _assert_equal_ranks(model):
    assert len(set(hvd.allgather_object(_bytes_of(model), "weights"))) == 1


def _assert_near(model, wanted):
    for weight, other in zip(model.weights, wanted.weights):
        assert numpy.allclose(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(other),
                              atol=1e-4)


def tensors_are_reduced_gathered_and_sent():
    ones = keras.ops.ones((2, 3)) * (hvd.rank() + 1.0)
    total = sum(rank + 1.0 for rank in range(hvd.size()))
    assert float(hvd.allreduce(ones, name="a", op=hvd.Sum)[0, 0]) == total
    assert tuple(hvd.allgather(ones, name="b").shape) == (2 * hvd.size(), 3)
    assert float(hvd.broadcast(ones, hvd.size() - 1, name="c")[1, 2]) == hvd.size()
    rows = hvd.reducescatter(numpy.ones((2 * hvd.size(), 3), "float32"), "d", hvd.Sum)
    assert tuple(rows.shape) == (2, 3) and float(rows[1, 2]) == hvd.size()
    for value in (hvd.rank() + 1.0, numpy.float32(hvd.rank() + 1), numpy.full((), hvd.rank() + 1.0, "float32")):
        assert float(hvd.allreduce(value, name="e", op=hvd.Sum)) == total
    assert keras.ops.is_tensor(hvd.allgather([[1.0, 2.0]], name="f")) and float(
        hvd.broadcast([3.0 * hvd.rank()], 0, name="g")[0]) == 0.0


def horovods_names_are_here():
    problems = horovod_surface.problems_of(hvd, "horovod.keras", horovod_surface.KERAS)
    assert not problems, problems


def fit_is_that_of_one_rank_on_the_whole_batch():
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))
    alone = _model(keras.optimizers.SGD(0.1, momentum=0.9))
    _fit(model, _mine(), 24 // hvd.size())
    _fit(alone, _data(), 24)
    _assert_equal_ranks(model)
    _assert_near(model, alone)


def a_sum_is_no_average():
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1 / hvd.size()), op=hvd.Sum))
    average = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), gradient_predivide_factor=2.0))
    for one in (model, average):
        _fit(one, _mine(), 24 // hvd.size())
    for weight, wanted in zip(model.weights, average.weights):
        assert numpy.allclose(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(wanted),
                              atol=1e-5)


def scalecom_trains_and_keeps_the_ranks_equal():
    compression = hvd.Compression.scalecom(rate=16, rates={"net/head/kernel": None})
    model = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=compression))
    begin = hvd.stats()["compressed_tensors"]
    history = _fit(model, _mine(), 24 // hvd.size(), epochs=12).history
    assert hvd.stats()["compressed_tensors"] - begin == 12 * 10
    assert hvd.compression_stats()["net/hidden/kernel"]["elements"] == numpy.prod(
        model.get_layer("hidden").kernel.shape)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    _assert_equal_ranks(model)
    with pytest.raises(ValueError, match="nowhere"):
        _fit(_model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=(
            hvd.Compression.scalecom(rates={"nowhere": 4})))), _mine(), 24 // hvd.size())


class _Own(keras.Model):
    """A model whose layers get their shapes from its first batch, and of which one is never called."""

    def __init__(self):
        super().__init__(name="own")
        self.inner, self.unused = keras.layers.Dense(4), keras.layers.Dense(2)

    def call(self, inputs):
        return self.inner(inputs)


def the_callback_gives_all_ranks_the_weights_of_the_root():
    # A model from a file is built, on one rank perhaps; TensorFlow alone has the rest to be built by fit().
    sequential = keras.Sequential([keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="is not built"):
        hvd.broadcast_global_variables(0, sequential)
    if hvd.rank() == 0:
        sequential.build((None, 32))
    for own in (None, _Own(), *([sequential] if keras.backend.backend() == "tensorflow" else [])):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01 * (hvd.rank() + 1)))
        model = _model(optimizer, seed=hvd.rank(), own=own)
        _fit(model, _mine(), 24 // hvd.size(), [hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
        _assert_equal_ranks(model)
        assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == numpy.float32(0.01)


def local_variables_stay_each_ranks_own():
    model = _model(keras.optimizers.SGD(0.0), seed=hvd.rank())
    own = model.layers[0].kernel
    mine, callback = keras.ops.convert_to_numpy(own), hvd.callbacks.BroadcastGlobalVariablesCallback(0, "", own)
    callback.register_local_var(model.layers[0].bias)
    _fit(model, _mine(), 24 // hvd.size(), [callback])
    assert (keras.ops.convert_to_numpy(own) == mine).all()
    assert len({keras.ops.convert_to_numpy(own).tobytes()
                for own in hvd.allgather_object(keras.ops.convert_to_numpy(model.layers[1].kernel))}) == 1


class _Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


def metrics_are_averaged_and_rates_scheduled():
    callbacks = hvd.callbacks
    seen, before = _Rates(), _Rates()
    schedule = callbacks.LearningRateScheduleCallback(0.1, lambda epoch: 0.5**epoch, start_epoch=2)
    warmup = callbacks.LearningRateWarmupCallback(0.1, warmup_epochs=2)
    model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    _fit(model, _mine(), 24 // hvd.size(), [before, warmup, schedule,
                                           callbacks.MetricAverageCallback(), seen], epochs=4)
    for mine, average in zip(before.logs, seen.logs):
        everyone = hvd.allgather_object(mine["loss"], "loss")
        assert numpy.isclose(average["loss"], numpy.mean(everyone))
    size = hvd.size()
    wanted = [0.1 * (1 + 0.5 * (size - 1)) / size, 0.1, 0.1 * 0.25, 0.1 * 0.125]
    assert numpy.allclose([logs["lr"] for logs in seen.logs], wanted, rtol=1e-5), seen.logs
    with pytest.raises(ValueError, match="momentum_correction"):
        callbacks.LearningRateWarmupCallback(0.1, momentum_correction=True)


def a_model_is_saved_as_with_the_plain_optimizer_and_distributed_again():
    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp(), 0, "folder"))
    plain = keras.optimizers.Adam(0.01)
    optimizer = hvd.DistributedOptimizer(plain)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert optimizer.get_config() == keras.optimizers.Adam(0.01, name=plain.name).get_config()
    model = _model(optimizer)
    best = hvd.callbacks.BestModelCheckpoint(monitor="loss")
    with pytest.raises(ValueError, match="filepath is None"):
        _fit(model, _mine(), 24 // hvd.size(), [best])
    best.filepath = str(folder / "best.keras")
    often = hvd.callbacks.BestModelCheckpoint(str(folder / "{batch}.weights.h5"), "loss", save_weights_only=True,
                                              save_freq=8)
    _fit(model, _mine(), 24 // hvd.size(), [hvd.callbacks.MetricAverageCallback(), best, often])
    hvd.barrier()
    assert [file.name for file in folder.glob("*.h5")] == ["8.weights.h5"]
    loaded = keras.models.load_model(folder / "best.keras")
    assert not hasattr(loaded.optimizer, "_scalecom") and isinstance(loaded.optimizer,
                                                                     keras.optimizers.Adam)
    again = hvd.load_model(str(folder / "best.keras"), op=hvd.Sum)
    assert _bytes_of(again) == _bytes_of(model) == _bytes_of(loaded)
    assert int(again.optimizer.iterations) == 10
    _fit(again, _mine(), 24 // hvd.size())
    _assert_equal_ranks(again)
    hvd.barrier()


def _residual(name):
    return residuals.state()[name]


def residuals_are_in_the_files_of_their_rank():
    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp(), 0, "folder"))
    own = str(folder / f"{hvd.rank()}.keras")
    compression = hvd.Compression.scalecom(rate=16, rates={"*hidden/kernel": 16, "*": None})
    model = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=compression))
    _fit(model, _mine(), 24 // hvd.size())
    model.save(own)
    at_save, step = _residual("net/hidden/kernel"), compression_steps()["net/hidden/kernel"]
    assert numpy.abs(at_save).max() > 0
    hvd.barrier()
    _fit(model, _mine(), 24 // hvd.size())
    assert (_residual("net/hidden/kernel") != at_save).any()
    wanted = _bytes_of(model)
    again = hvd.load_model(own, compression=compression)
    name = again.trainable_variables[0].path  # Keras gives others to what it loads.
    assert (_residual(name) == at_save).all()
    assert compression_steps()[name] == step
    _fit(again, _mine(), 24 // hvd.size())
    assert _bytes_of(again) == wanted
    # Keras leaves an optimizer out that is not built, and what it owes goes the same way.
    for is_built in (False, True):
        other = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=compression))
        if is_built:
            other.optimizer.build(other.trainable_variables)
        other.load_weights(own)
        assert (_residual("net/hidden/kernel") == at_save).all() == is_built
    # Of another rank there are steps alone; who does not know of residuals has all the rest.
    hvd.load_model(str(folder / "0.keras"), compression=compression)
    assert (_residual(name) == at_save).all() == (hvd.rank() == 0)
    assert compression_steps()[name] == step
    plain = keras.models.load_model(own)
    assert int(plain.optimizer.iterations) == 10 and _bytes_of(plain) != wanted
    plain.save(folder / f"plain{hvd.rank()}.keras")
    hvd.load_model(str(folder / f"plain{hvd.rank()}.keras"), compression=compression)
    assert not _residual(name).any()
    assert compression_steps()[name] == 0
    store = {}
    again.optimizer.scalecom_residuals.save_own_variables(store)
    with pytest.MonkeyPatch.context() as early:
        early.setattr(basics, "is_initialized", lambda: False)
        early.setattr(basics, "rank", None)
        with unittest.TestCase().assertLogs("scalecom", "WARNING") as told:
            again.optimizer.scalecom_residuals.load_own_variables({**store, "0": numpy.ones(3, "float32")})
    assert "in the file are left out, as scalecom is not initialized: call hvd.init()" in told.output[0]
    store["0"] = numpy.ones(3, "float32")
    with pytest.raises(ValueError, match="hidden/kernel has shape .3,.*Residuals are as before; the weights are"):
        again.optimizer.scalecom_residuals.load_own_variables(store)
    store["0"] = numpy.full(at_save.shape, numpy.inf, "float32")
    with pytest.raises(ValueError, match="hidden/kernel has 2048 values of 2048 that are NaN or Inf"):
        again.optimizer.scalecom_residuals.load_own_variables(store)
    assert not _residual(name).any() and compression_steps()[name] == 0
    # As where rank 0 alone loads a file, and the callback gives it to all.
    residuals.load({name: at_save}, {name: step if hvd.rank() == 0 else 1})
    hvd.broadcast_global_variables(0, again)
    assert compression_steps()[name] == step
    assert (_residual(name) == at_save).all() == (hvd.rank() == 0)
    hvd.barrier()
    # The next dense step of these names would deliver what they still owe.
    residuals.load({name: numpy.zeros_like(value) for name, value in residuals.state().items()})
    hvd.barrier()


def files_of_another_number_of_ranks_are_folded():
    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp(), 0, "folder"))
    former, name, compression = hvd.size() + 1, "net/hidden/kernel", hvd.Compression.scalecom(
        rate=16, rates={"*hidden/kernel": 16, "*": None})
    model = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=compression))
    _fit(model, _mine(), 24 // hvd.size())
    owed = [numpy.full((32, 64), 1.0 + rank, "float32") for rank in range(former)]
    files = [str(folder / f"{rank}.{kind}") for kind in ("keras", "weights.h5") for rank in range(former)]

    def write(rank, size, step=17):
        residuals.load({name: owed[rank]}, {name: step}, {name: 0.5})
        with pytest.MonkeyPatch.context() as then:
            then.setattr(basics, "rank", lambda: rank)
            then.setattr(basics, "size", lambda: size)
            model.save(files[rank])
            model.save_weights(files[former + rank])

    for rank in {hvd.rank(), former - 1} if hvd.rank() == 0 else {hvd.rank()}:
        write(rank, former)
    hvd.barrier()
    for op, factor in ((hvd.Average, 1.0), (hvd.Sum, former / hvd.size())):
        again = hvd.load_model(files[:former], compression=compression, op=op)
        path = again.trainable_variables[0].path
        assert numpy.allclose(_residual(path), factor * numpy.mean(range(1, former + 1)))
        assert compression_steps()[path] == 17 and compression_betas()[path] == 0.5
        assert _bytes_of(again) == _bytes_of(model)
    model.load_weights(files[former + hvd.rank()])
    assert not _residual(name).any()
    hvd.load_residuals(model, files[former:])
    assert numpy.allclose(_residual(name), numpy.mean(range(1, former + 1)))
    with pytest.raises(ValueError, match=f"ranks .* of {former}; give one of each"):
        hvd.load_residuals(model, files[:former - 1])
    hvd.barrier()
    for step in (17 + hvd.rank(), 17):
        write(hvd.rank(), hvd.size(), step)
        hvd.barrier()
        if hvd.allgather_object(step, "step")[-1] > 17:
            with pytest.raises(ValueError, match="saved at other steps"):
                hvd.load_residuals(model, files[former:-1])
        hvd.barrier()
    with pytest.raises(ValueError, match=f"of {hvd.size()}, {former}; give one of each"):
        hvd.load_residuals(model, files[former:])
    hvd.load_residuals(model, files[former:-1])
    assert (_residual(name) == owed[hvd.rank()]).all()
    early = _model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=compression))
    early.optimizer.build(early.trainable_variables)
    residuals.load_model_state({"residuals": {}, "steps": {}}, {name: (32, 64)})
    early.save(folder / f"early{hvd.rank()}.keras")
    hvd.barrier()
    again = hvd.load_model([str(folder / f"early{rank}.keras") for rank in range(hvd.size())], compression=compression)
    assert not any(value.any() for value in residuals.state().values())
    _fit(again, _mine(), 24 // hvd.size())
    _assert_equal_ranks(again)
    plain = _model(keras.optimizers.SGD(0.1))
    plain.save(folder / f"plain{hvd.rank()}.keras")
    with pytest.raises(ValueError, match="plain.*has no residuals"):
        hvd.load_residuals(model, folder / f"plain{hvd.rank()}.keras")
    with pytest.raises(ValueError, match="list of files is empty"):
        hvd.load_model([])
    with pytest.raises(ValueError, match="is not distributed"):
        hvd.load_residuals(plain, files)
    residuals.load({name: numpy.zeros_like(value) for name, value in residuals.state().items()})
    hvd.barrier()


def a_process_set_trains_by_itself_and_local_variables_stay_own():
    ranks = list(range(max(1, hvd.size() - 1)))
    chosen = hvd.add_process_set(ranks) if hvd.size() > 1 else hvd.global_process_set
    if chosen.included():
        model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), process_set=chosen))
        _fit(model, tuple(part[chosen.rank()::chosen.size()] for part in _data()), 24 // chosen.size())
        alone = _model(keras.optimizers.SGD(0.1))
        _fit(alone, _data(), 24)
        _assert_near(model, alone)
    else:
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), process_set=chosen)
        outside = keras.Variable(numpy.zeros(2, "float32"), name="outside")
        optimizer.apply([keras.ops.ones(2) * 3.0], [outside])
        assert outside.numpy().tolist() == [-3.0, -3.0]
    hvd.barrier()
    if hvd.size() > 1:
        hvd.remove_process_set(chosen)
    for is_scaled in (True, False):
        shared, own = (keras.Variable(numpy.zeros(2, "float32"), name=f"{name}_{is_scaled}")
                       for name in ("shared", "own"))
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), num_groups=1,
                                             scale_local_gradients=is_scaled)
        optimizer.register_local_var(own)
        mine = keras.ops.ones(2) * (hvd.rank() + 1.0)
        optimizer.apply([mine, mine + 0.0], [shared, own])
        assert numpy.allclose(shared.numpy(), -(hvd.size() + 1) / 2)
        assert numpy.allclose(own.numpy(), -(hvd.rank() + 1) / (hvd.size() if is_scaled else 1))
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        partial = hvd.PartialDistributedOptimizer(keras.optimizers.SGD(1.0), local_layers=[layer],
                                                  scale_local_gradients=is_scaled)
        layer.build((None, 2))  # Only now.
        mine = keras.ops.ones(2) * (hvd.rank() + 1.0)  # torch's were reduced in place.
        partial.apply([mine[:, None] + 0.0, mine], [layer.kernel, shared])
        assert numpy.allclose(shared.numpy(), -(hvd.size() + 1))
        assert numpy.allclose(layer.kernel.numpy(), -(hvd.rank() + 1) / (hvd.size() if is_scaled else 1))
    refused = keras.optimizers.SGD(1.0)
    kind = type(refused)
    with pytest.raises(ValueError, match="one group only"):
        hvd.DistributedOptimizer(refused, groups=[[own], [own]])
    assert type(refused) is kind  # Nothing of it has been changed.


def mistakes_are_refused():
    sgd = keras.optimizers.SGD
    for call, words in ((lambda: hvd.DistributedOptimizer("sgd"), "Optimizer is needed"),
                        (lambda: hvd.DistributedOptimizer(hvd.DistributedOptimizer(sgd()), op=hvd.Sum), "already"),
                        (lambda: hvd.DistributedOptimizer(sgd(), op=hvd.Max), "allowed are Average, Sum, Adasum"),
                        (lambda: hvd.DistributedOptimizer(sgd(), compression=4), "compression is 4"),
                        (lambda: hvd.DistributedOptimizer(sgd(), op=hvd.Sum,
                                                          gradient_predivide_factor=2.0), "needs op")):
        with pytest.raises(ValueError, match=words):
            call()


def an_optimizer_may_be_made_distributed_once_more():
    for settings in ({}, {"compression": hvd.Compression.scalecom(rate=4)}, {"backward_passes_per_step": 2}):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), **settings)
        if settings:
            with pytest.raises(ValueError, match="distributed already, with other settings"):
                hvd.DistributedOptimizer(optimizer)
            if "compression" in settings:
                settings = {"compression": hvd.Compression.scalecom(rate=4)}
        kind = type(optimizer)
        assert hvd.DistributedOptimizer(optimizer, **settings) is optimizer and type(optimizer) is kind
    model, alone = _model(hvd.DistributedOptimizer(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), op=hvd.Sum),
                                                   op=hvd.Sum)), _model(keras.optimizers.SGD(0.1 * hvd.size()))
    _fit(model, _mine(), 24 // hvd.size())
    _fit(alone, _data(), 24)
    _assert_near(model, alone)


def join_knows_the_device_of_torch():
    assert (hvd.join is backend.adapter.join) == (keras.backend.backend() == "torch") or (
        hvd.join is backend.adapter.join is process_sets.join)


def xla_is_taken_from_a_model_that_it_was_to_compile():
    if keras.backend.backend() != "tensorflow":
        return
    for callback in (hvd.callbacks.BroadcastGlobalVariablesCallback(0),
                     hvd.elastic.UpdateBatchStateCallback(types.SimpleNamespace(batch=0))):
        model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
        model.jit_compile = True
        with pytest.warns(UserWarning, match="jit_compile is False now"):
            _fit(model, _mine(), 20, [callback])
        _assert_equal_ranks(model)


def ranks_skip_the_same_steps_of_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match="LossScaleOptimizer"):
            model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
            _fit(model, _mine(), 20)
        inner = keras.optimizers.SGD(0.01)
        model = _model(hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(inner)))
        second = keras.optimizers.SGD(0.01)
        passes = _model(hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(second),
                                                 backward_passes_per_step=2))
    finally:
        keras.config.set_dtype_policy("float32")
    features, labels = _mine()
    features = features.copy()
    if hvd.rank() == 0:
        features[:20] = 1e30  # The first batch overflows on this rank alone.
    batches = 2 * -(-len(labels) // 20)
    for one, own, steps in ((model, inner, batches), (passes, second, batches // 2)):
        _fit(one, (features, labels), 20, epochs=2)
        assert 0 < int(keras.ops.convert_to_numpy(own.iterations)) < steps
        _assert_equal_ranks(one)
