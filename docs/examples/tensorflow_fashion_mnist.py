"""Trains a small convolutional network on Fashion-MNIST with TensorFlow, dense or with ScaleCom.

    python tensorflow_fashion_mnist.py
    mpirun -np 2 python tensorflow_fashion_mnist.py --compression scalecom

The data is Debian's package dataset-fashion-mnist; where it is not installed, scikit-learn's 8 x 8
digits take its place. All ranks draw the same batches from the seed, each takes its part.
"""

import argparse
import hashlib
import json
import pathlib
import time

import keras
import numpy
import tensorflow as tf
from fashion_mnist_data import load_data

import scalecom.tensorflow as hvd


def make_model():
    """Convolutions and a large fully connected layer: 1.02 million parameters."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input([28, 28, 1]),
        layers.Conv2D(16, 5, padding="same", activation="relu", name="first"),
        layers.MaxPooling2D(), layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(), layers.Flatten(), layers.Dense(640, activation="relu", name="large"),
        layers.Dense(10)])


def to_input(images):
    return (tf.cast(images, tf.float32)[..., tf.newaxis] - 72.9) / 90.0


def make_step(model, optimizer, compression):
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = model.trainable_variables

    @tf.function
    def step(images, labels):
        # Gradients go by the names of what they are asked for: Keras variables have paths.
        with hvd.DistributedGradientTape(tf.GradientTape(), compression=compression) as tape:
            loss = criterion(labels, model(to_input(images), training=True))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def train(arguments, step, images, labels):
    rank, size = hvd.rank(), hvd.size()
    draw = numpy.random.default_rng(arguments.seed)
    steps_per_epoch = arguments.steps or len(images) // arguments.batch_size
    for epoch in range(arguments.epochs):
        order = draw.permutation(len(images))
        for number in range(steps_per_epoch):
            begin = number * arguments.batch_size
            batch = order[begin:begin + arguments.batch_size][rank::size]
            loss = step(images[batch], labels[batch])
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {float(loss):.3f}", flush=True)


def test_accuracy(model, images, labels):
    rank, size = hvd.rank(), hvd.size()
    guesses = model(to_input(images[rank::size])).numpy().argmax(axis=1)
    right = tf.constant(int((guesses == labels[rank::size]).sum()))
    return int(hvd.allreduce(right, op=hvd.Sum, name="right")) / len(images)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compression", choices=["none", "scalecom"], default="none")
    parser.add_argument("--rate", type=int, default=64, help="elements of which one is sent")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of an epoch; all by default")
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    hvd.init()
    keras.utils.set_random_seed(arguments.seed)
    _, (images, labels), (test_images, test_labels) = load_data()
    model = make_model()
    optimizer = keras.optimizers.SGD(arguments.lr, momentum=0.9)
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables([*model.weights, *optimizer.variables], root_rank=0)
    compression = hvd.Compression.none
    if arguments.compression == "scalecom":
        # The large layer has 98 % of the parameters: compressing it is enough.
        compression = hvd.Compression.scalecom(
            rates={"*large/kernel": arguments.rate, "*": None})
    begin, sent = time.perf_counter(), hvd.stats()["data_bytes_sent"]
    train(arguments, make_step(model, optimizer, compression), images, labels)
    weights = b"".join(one.numpy().tobytes() for one in model.trainable_variables)
    figures = {
        "seconds": time.perf_counter() - begin,
        "bytes_sent": hvd.stats()["data_bytes_sent"] - sent,
        "test_accuracy": test_accuracy(model, test_images, test_labels),
        "parameter_checksums": hvd.allgather_object(hashlib.sha256(weights).hexdigest()),
    }
    if hvd.rank() == 0:
        print(f"test accuracy {100 * figures['test_accuracy']:.2f} %, {figures['seconds']:.1f} s, "
              f"{figures['bytes_sent']} bytes sent", flush=True)
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    hvd.shutdown()


if __name__ == "__main__":
    main()
