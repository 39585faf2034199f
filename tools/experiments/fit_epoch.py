"""Time of an epoch of Keras's model.fit() beside a loop of torch: without communication, dense, and
with ScaleCom. The three take turns, epoch by epoch, each turn in another order, in one job of one framework:

    mpirun -np 2 python tools/experiments/fit_epoch.py torch
    KERAS_BACKEND=tensorflow mpirun -np 2 python tools/experiments/fit_epoch.py keras

It prints the medians with quartiles, and how many times the epoch without communication they take.
"""

import argparse
import os
import statistics
import time

import numpy

STEPS = 300  # of an epoch
BATCH = 32  # of a rank
KINDS = {"alone": None, "dense": None, "ScaleCom, rate 64": 64}


def _data(rank):
    generator = numpy.random.default_rng(rank)
    images = generator.standard_normal((STEPS * BATCH, 784), dtype=numpy.float32)
    return images, generator.integers(0, 10, STEPS * BATCH)


def torch_epochs():
    """A function that trains one epoch and returns its seconds, for each kind."""
    import torch
    from torch.nn import functional

    import scalecom.torch as hvd
    hvd.init()
    torch.set_num_threads(1)
    images, labels = map(torch.from_numpy, _data(hvd.rank()))

    def make(kind, rate):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(784, 1024), torch.nn.ReLU(),
                                    torch.nn.Linear(1024, 10))
        optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
        if kind != "alone":
            compression = hvd.Compression.scalecom(rate=rate) if rate else hvd.Compression.none
            names = [(f"{kind}.{name}", value) for name, value in model.named_parameters()]
            optimizer = hvd.DistributedOptimizer(optimizer, names, compression=compression)

        def train():
            begin = time.perf_counter()
            for place in range(0, len(images), BATCH):
                optimizer.zero_grad()
                outputs = model(images[place:place + BATCH])
                functional.cross_entropy(outputs, labels[place:place + BATCH]).backward()
                optimizer.step()
            return time.perf_counter() - begin
        return train
    return hvd, {kind: make(kind, rate) for kind, rate in KINDS.items()}


def keras_epochs():
    """The same by model.fit()."""
    import keras

    import scalecom.keras as hvd
    if keras.backend.backend() == "torch":
        import torch
        torch.set_num_threads(1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    hvd.init()
    images, labels = _data(hvd.rank())

    def make(kind, rate):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([
            keras.Input((784,)), keras.layers.Dense(1024, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="head")], name=kind.split(",")[0])
        optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
        if kind != "alone":
            compression = hvd.Compression.scalecom(rate=rate) if rate else hvd.Compression.none
            optimizer = hvd.DistributedOptimizer(optimizer, compression=compression)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

        def train():
            # Without what fit() does before and after, which takes as long as many steps.
            times = []
            clock = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda *_: times.append(time.perf_counter()),
                on_epoch_end=lambda *_: times.append(time.perf_counter()))
            model.fit(images, labels, batch_size=BATCH, epochs=1, verbose=0, shuffle=False,
                      callbacks=[clock])
            return times[1] - times[0]
        return train
    return hvd, {kind: make(kind, rate) for kind, rate in KINDS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("framework", choices=["torch", "keras"])
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each kind, after a first")
    options = parser.parse_args()
    hvd, epochs = torch_epochs() if options.framework == "torch" else keras_epochs()
    times = {kind: [] for kind in epochs}
    for turn in range(options.rounds + 1):
        kinds = list(epochs)
        for kind in kinds[turn % 3:] + kinds[:turn % 3]:
            hvd.barrier()
            taken = epochs[kind]()
            if turn > 0:
                times[kind].append(taken)
    if hvd.rank() == 0:
        name = options.framework
        if name == "keras":
            name += f" on {os.environ.get('KERAS_BACKEND', 'tensorflow')}"
        alone = statistics.median(times["alone"])
        for kind, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{name}, {kind}: median {1e3 * middle:.0f} ms, quartiles {1e3 * low:.0f} to "
                  f"{1e3 * high:.0f} ms, {middle / alone:.2f} times alone", flush=True)
    hvd.shutdown()


if __name__ == "__main__":
    main()
