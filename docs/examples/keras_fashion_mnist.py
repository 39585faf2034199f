"""Trains a small network on Fashion-MNIST with Keras 3's model.fit(), dense or with ScaleCom.

    KERAS_BACKEND=jax python keras_fashion_mnist.py
    KERAS_BACKEND=torch mpirun -np 2 python keras_fashion_mnist.py --compression scalecom

The data is Debian's package dataset-fashion-mnist; where it is not installed, scikit-learn's 8 x 8
digits take its place. Each rank trains on its part of it.
"""

import argparse
import hashlib
import json
import pathlib
import time

import keras
import numpy
from fashion_mnist_data import load_data

import scalecom.keras as hvd


def make_model():
    """Of two layers: 814,090 numbers."""
    return keras.Sequential([
        keras.Input((28, 28)), keras.layers.Rescaling(1.0 / 90.0, -0.81), keras.layers.Flatten(),
        keras.layers.Dense(1024, activation="relu", name="hidden"),
        keras.layers.Dense(10, name="head")], name="net")


def checksum(model):
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.hexdigest()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compression", choices=["none", "scalecom"], default="none")
    parser.add_argument("--rate", type=int, default=64, help="elements of which one is sent")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="in an epoch; all batches by default")
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    hvd.init()
    keras.utils.set_random_seed(arguments.seed)
    data_name, (images, labels), (test_images, test_labels) = load_data()
    # As many on each rank, so that all make as many steps.
    each = len(images) // hvd.size() * hvd.size()
    mine = slice(hvd.rank(), each, hvd.size())
    compression = hvd.Compression.none
    if arguments.compression == "scalecom":
        compression = hvd.Compression.scalecom(rate=arguments.rate, rates={"net/head/kernel": 4})
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(arguments.lr, momentum=0.9),
                                         compression=compression)
    model = make_model()
    model.compile(optimizer=optimizer, metrics=["accuracy"],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, begin = hvd.stats()["data_bytes_sent"], time.perf_counter()
    model.fit(images[mine], labels[mine], epochs=arguments.epochs, steps_per_epoch=arguments.steps,
              batch_size=max(1, arguments.batch_size // hvd.size()),
              verbose=2 if hvd.rank() == 0 else 0,
              callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0),
                         hvd.callbacks.MetricAverageCallback()])
    figures = {"data": data_name, "ranks": hvd.size(), "seconds": time.perf_counter() - begin,
               "bytes_sent": hvd.stats()["data_bytes_sent"] - before,
               "parameter_checksums": hvd.allgather_object(checksum(model))}
    right = model.predict(test_images, verbose=0).argmax(1) == test_labels
    figures["test_accuracy"] = float(numpy.mean(right))
    if hvd.rank() == 0:
        print(f"{data_name}: test accuracy {100 * figures['test_accuracy']:.2f} %, "
              f"{figures['seconds']:.1f} s, {figures['bytes_sent']} bytes sent")
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    hvd.shutdown()


if __name__ == "__main__":
    main()
