"""Trains a small network on Fashion-MNIST with JAX and optax, dense or with ScaleCom.

    python jax_fashion_mnist.py
    mpirun -np 2 python jax_fashion_mnist.py --compression scalecom

The data is Debian's package dataset-fashion-mnist; where it is not installed, scikit-learn's 8 x 8
digits take its place. All ranks draw the same batches from the seed, each takes its part.
"""

import argparse
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy
import optax
from fashion_mnist_data import load_data

import scalecom.jax as hvd


def make_parameters(seed):
    """Of two layers: 814,090 numbers."""
    generator = numpy.random.default_rng(seed)

    def layer(rows, columns):
        kernel = generator.normal(0.0, (2.0 / rows) ** 0.5, (rows, columns))
        return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(columns)}

    return {"hidden": layer(784, 1024), "head": layer(1024, 10)}


def predict(parameters, images):
    hidden, head = parameters["hidden"], parameters["head"]
    values = (images.reshape(len(images), -1).astype(jnp.float32) - 72.9) / 90.0
    values = jax.nn.relu(values @ hidden["kernel"] + hidden["bias"])
    return values @ head["kernel"] + head["bias"]


def loss_of(parameters, images, labels):
    logits = predict(parameters, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(arguments, parameters, optimizer, images, labels):
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, state, images, labels):
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    order = numpy.random.default_rng(arguments.seed)
    steps = arguments.steps or len(images) // arguments.batch_size
    for epoch in range(arguments.epochs):
        begin = time.perf_counter()
        places = order.permutation(len(images))
        for number in range(steps):
            batch = places[number * arguments.batch_size:(number + 1) * arguments.batch_size]
            mine = batch[hvd.rank()::hvd.size()]
            parameters, state, loss = step(parameters, state, images[mine], labels[mine])
        loss = float(hvd.allreduce(loss, name="loss"))
        if hvd.rank() == 0:
            print(f"epoch {epoch + 1}: loss {loss:.3f}, {time.perf_counter() - begin:.1f} s", flush=True)
    return parameters


def test_accuracy(parameters, images, labels):
    right = 0
    for begin in range(0, len(images), 500):
        part = slice(begin + hvd.rank(), begin + 500, hvd.size())
        right += int((predict(parameters, images[part]).argmax(1) == labels[part]).sum())
    return float(hvd.allreduce(jnp.asarray(right), name="right", op=hvd.Sum)) / len(images)


def checksum(parameters):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(parameters):
        digest.update(numpy.asarray(leaf).tobytes())
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
    data_name, (images, labels), (test_images, test_labels) = load_data()
    compression = hvd.Compression.none
    if arguments.compression == "scalecom":
        compression = hvd.Compression.scalecom(rate=arguments.rate, rates={"head.kernel": 4})
    parameters = hvd.broadcast_parameters(make_parameters(arguments.seed), root_rank=0)
    optimizer = hvd.DistributedOptimizer(optax.sgd(arguments.lr, momentum=0.9),
                                         compression=compression)
    before = hvd.stats()["data_bytes_sent"]
    parameters = train(arguments, parameters, optimizer, images, labels)
    figures = {"data": data_name, "ranks": hvd.size(),
               "bytes_sent": hvd.stats()["data_bytes_sent"] - before,
               "test_accuracy": test_accuracy(parameters, test_images, test_labels),
               "parameter_checksums": hvd.allgather_object(checksum(parameters))}
    if hvd.rank() == 0:
        print(f"{data_name}: test accuracy {100 * figures['test_accuracy']:.2f} %, "
              f"{figures['bytes_sent']} bytes sent")
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    hvd.shutdown()


if __name__ == "__main__":
    main()
