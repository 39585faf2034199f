"""Claims about scalecom.tensorflow.keras with the legacy tf-keras, for TF_USE_LEGACY_KERAS=1. Each function is
called on every rank, in this order."""

import functools
import importlib
import pathlib
import tempfile

import numpy
import pytest
import tensorflow as tf

import scalecom.horovod
import scalecom.tensorflow.keras as hvd
from programs import horovod_surface
from programs.pages import run
from scalecom.arrays import residuals
from scalecom.tensorflow import SavedResiduals

optimizers = tf.keras.optimizers
KINDS = (optimizers.SGD, optimizers.legacy.SGD)


def _model(optimizer, seed=0):
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(4, name="hidden"),
                                 tf.keras.layers.Dense(1, name="head")])
    model.compile(optimizer=optimizer, loss="mse")
    return model


@functools.lru_cache
def _data(samples=120):
    features = numpy.random.default_rng(3).normal(size=(samples, 8)).astype("float32")
    return features, features.sum(axis=1, keepdims=True)


def _fit(model, batch, callbacks=(), is_whole=False, epochs=1):
    part = slice(0, None) if is_whole else slice(hvd.rank(), None, hvd.size())
    features, labels = _data()
    return model.fit(features[part], labels[part], batch_size=batch, shuffle=False, verbose=0, epochs=epochs,
                     callbacks=list(callbacks))


def _assert_near(model, wanted):
    for weight, other in zip(model.get_weights(), wanted.get_weights()):
        assert numpy.allclose(weight, other, atol=1e-5)


def _assert_equal_ranks(model):
    mine = b"".join(weight.tobytes() for weight in model.get_weights())
    assert len(set(hvd.allgather_object(mine, "weights"))) == 1


def it_is_the_legacy_keras():
    assert tf.keras.Model.__module__.startswith("tf_keras")
    for kind in (hvd.callbacks.MetricAverageCallback, hvd.elastic.CommitStateCallback):
        assert issubclass(kind, tf.keras.callbacks.Callback)


def the_block_of_its_page_runs():
    assert run("keras", 1, {})["tf"] is tf


def horovods_names_are_here():
    problems = horovod_surface.problems_of(hvd, "horovod.tensorflow.keras", horovod_surface.TENSORFLOW_KERAS)
    assert not problems, problems


def the_names_of_horovods_keras_take_it_too():
    scalecom.horovod.install()
    served, callbacks, elastic = (importlib.import_module(f"horovod.keras{part}")
                                  for part in ("", ".callbacks", ".elastic"))
    problems = horovod_surface.problems_of(served, "horovod.keras", horovod_surface.KERAS)
    assert not problems, problems
    assert callbacks.MetricAverageCallback is hvd.callbacks.MetricAverageCallback
    assert elastic.CommitStateCallback is hvd.elastic.CommitStateCallback
    for kind in KINDS:
        model = _model(served.PartialDistributedOptimizer(kind(0.01), local_layers=[]), hvd.rank())
        _fit(model, 12 // hvd.size(), [callbacks.BroadcastGlobalVariablesCallback(0),
                                       callbacks.MetricAverageCallback()])
        _assert_equal_ranks(model)


def fit_is_that_of_one_rank_on_the_whole_batch():
    for kind in KINDS:
        make = functools.partial(kind, 0.05, momentum=0.9)
        for passes in (1, 2):
            model = _model(hvd.DistributedOptimizer(make(), backward_passes_per_step=passes,
                                                    average_aggregated_gradients=True))
            alone = _model(make())
            assert isinstance(model.optimizer, kind)
            before = hvd.stats()["tensors_completed"]
            _fit(model, 12 // hvd.size())
            assert hvd.stats()["tensors_completed"] - before == 10 // passes * 4
            _fit(alone, 12 * passes, is_whole=True)
            assert int(model.optimizer.iterations) == 10 // passes
            _assert_near(model, alone)
            _assert_equal_ranks(model)
    with pytest.raises(ValueError, match="distributed already"):
        hvd.DistributedOptimizer(model.optimizer, op=hvd.Sum)
    layer = tf.keras.layers.Dense(1)
    layer.build((None, 2))
    before, mine = layer.bias.numpy(), tf.ones(1) * (hvd.rank() + 1.0)
    hvd.PartialDistributedOptimizer(make(), local_layers=layer, scale_local_gradients=False).apply_gradients(
        [(mine, layer.bias)])
    assert numpy.allclose(layer.bias.numpy(), before - 0.05 * mine.numpy())


def adasum_reduces_what_a_step_does():
    model, alone = _model(hvd.DistributedOptimizer(optimizers.SGD(0.05), op=hvd.Adasum)), _model(optimizers.SGD(0.05))
    starts = model.get_weights()
    for one in (model, alone):
        _fit(one, 240)
    for weight, own, start in zip(model.get_weights(), alone.get_weights(), starts):
        change = hvd.allreduce(tf.constant(own - start), op=hvd.Adasum, name="wanted")
        assert numpy.allclose(weight, start + change.numpy(), atol=1e-6)


class _Logs(tf.keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


def callbacks_do_what_those_of_keras_3_do():
    for kind in KINDS:
        model = _model(hvd.DistributedOptimizer(kind(0.01 * (hvd.rank() + 1), momentum=0.5)), seed=hvd.rank())
        before, seen = _Logs(), _Logs()
        _fit(model, 12 // hvd.size(), [
            hvd.callbacks.BroadcastGlobalVariablesCallback(0), before, hvd.callbacks.MetricAverageCallback(),
            hvd.callbacks.LearningRateWarmupCallback(0.05, warmup_epochs=2), seen], epochs=3)
        _assert_equal_ranks(model)
        for mine, average in zip(before.logs, seen.logs):
            assert numpy.isclose(average["loss"], numpy.mean(hvd.allgather_object(mine["loss"], "loss")))
        assert numpy.isclose(seen.logs[1]["lr"], 0.05)
        tf.keras.utils.set_random_seed(hvd.rank())
        unbuilt = tf.keras.Sequential([tf.keras.layers.Dense(1)])
        unbuilt.compile(optimizer=hvd.DistributedOptimizer(kind(0.01, momentum=0.5)), loss="mse")
        _fit(unbuilt, 12 // hvd.size(), [hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
        _assert_equal_ranks(unbuilt)
    folder = pathlib.Path(hvd.broadcast_object(tempfile.mkdtemp(), 0, "folder"))
    best = hvd.callbacks.BestModelCheckpoint(str(folder / "best.keras"), monitor="loss")
    _fit(model, 12 // hvd.size(), [hvd.callbacks.MetricAverageCallback(), best])
    hvd.barrier()
    again = hvd.load_model(str(folder / "best.keras"))
    _assert_near(again, model)
    with pytest.raises(ValueError, match="distributed already"):
        hvd.DistributedOptimizer(again.optimizer, op=hvd.Sum)
    hvd.barrier()


def an_elastic_state_has_the_model_and_the_optimizer():
    for kind in KINDS:
        model = _model(hvd.DistributedOptimizer(kind(0.01, momentum=0.5), backward_passes_per_step=2), hvd.rank())
        state = hvd.elastic.KerasState(model, epoch=0, batch=8)
        state.sync()
        _assert_equal_ranks(model)
        seen = _Logs()
        seen.on_train_batch_end = lambda batch, logs=None: seen.logs.append(state.batch)
        for is_cut_short in (True, False):
            _fit(model, 12 // hvd.size(), [hvd.elastic.UpdateBatchStateCallback(state), seen,
                                           hvd.elastic.UpdateEpochStateCallback(state),
                                           hvd.elastic.CommitStateCallback(state, 100)], epochs=2 - state.epoch)
            assert state.is_cut_short == is_cut_short
        assert [batch for batch in seen.logs if isinstance(batch, int)] == [9, 10, *range(1, 11)], seen.logs
        assert state.epoch == 2 and state.batch == 0
        kept = model.get_weights()
        _fit(model, 12 // hvd.size())
        state.restore()
        for weight, wanted in zip(model.get_weights(), kept):
            assert (weight == wanted).all()
        state.on_reset()
        assert not model.optimizer._scalecom_accumulation.variables[0].numpy()


def residuals_are_in_a_checkpoint():
    for kind in KINDS:
        compression = hvd.Compression.scalecom(rates={"hidden/kernel": 4, "*": None}, warmup_steps=0)
        model = _model(hvd.DistributedOptimizer(kind(0.01), compression=compression))
        kept = SavedResiduals(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, residuals=kept)
        _fit(model, 12 // hvd.size())
        assert any(owed.any() for owed in residuals.state().values()) and b"facts" in kept.serialize()
        with tempfile.TemporaryDirectory() as folder:
            path = checkpoint.write(f"{folder}/own")
            _fit(model, 12 // hvd.size())
            wanted, owed = model.get_weights(), residuals.state()["hidden/kernel"]
            checkpoint.read(path).assert_existing_objects_matched()
        _fit(model, 12 // hvd.size())
        assert all((weight == other).all() for weight, other in zip(model.get_weights(), wanted))
        assert (residuals.state()["hidden/kernel"] == owed).all()
