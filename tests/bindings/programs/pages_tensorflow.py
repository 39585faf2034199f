"""The pages' blocks for TensorFlow and Keras run as they are written. Each function is called on every rank of a job."""

import keras
import numpy
import tensorflow as tf
from programs.pages import run

import scalecom.keras as hvd_keras
import scalecom.tensorflow as hvd


def _model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((32,)), keras.layers.Dense(64, name="body"),
                             keras.layers.Dense(8, name="head")], name="net")


def _data(batches=4):
    images = numpy.ones((32 * batches, 32), "float32")
    return tf.data.Dataset.from_tensor_slices((images, images[:, :8])).batch(32)


def _compression():
    return hvd_keras.Compression.scalecom(rate=64)


def a_tape_trains_and_its_residuals_are_saved():
    model, optimizer = _model(), keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    values = run("tensorflow", 0, {"model": model, "optimizer": optimizer,
                                   "criterion": keras.losses.MeanSquaredError()})
    values["step"](*next(iter(_data())))  # Its labels are images here.
    values = {"tf": tf, "hvd": hvd, "model": model, "step": 1, "former_size": hvd.size()}
    run("checkpoints", 5, values)
    hvd.barrier()
    run("checkpoints", 6, values)


def fit_trains():
    images = numpy.ones((64, 32), "float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, images[:, :8])).batch(32)
    run("keras", 0, {"model": _model(), "my_part": dataset})


def models_are_saved_and_folded():
    model = _model()
    model.compile(hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.01), compression=_compression()), loss="mse")
    model.fit(_data(), verbose=0)
    for ending in ("keras", "weights.h5"):
        save = model.save if ending == "keras" else model.save_weights
        save(f"step1.rank{hvd.rank()}.{ending}")
    hvd.barrier()
    run("checkpoints", 2, {"hvd": hvd_keras, "step": 1, "former_size": hvd.size()})


def fit_commits():
    model = _model()
    model.compile(hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.01), compression=_compression()), loss="mse")
    values = run("elastic", 1, {"hvd": hvd_keras, "model": model, "data": _data(), "epochs": 2})
    values["train"](values["state"])
    assert values["state"].epoch == 2
