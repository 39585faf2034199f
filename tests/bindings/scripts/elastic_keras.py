"""Trains a line elastically by model.fit() and writes down each step: elastic_keras.py FOLDER JSON

Every rank has the whole data in each batch, so that the loss of a step does not depend on the number of
ranks. In front of a step of the options they hold until FOLDER has a file `go`. KERAS_BACKEND names the back
end.
"""

import json
import os
import pathlib
import sys
import time

import numpy

BATCHES = 5  # In an epoch.
SAMPLES = 64
MOMENTUM = 0.5


def data(width):
    """(inputs, targets, learning rate)"""
    inputs = numpy.random.default_rng(1).normal(size=(SAMPLES, width)).astype("float32")
    return inputs, inputs @ numpy.arange(width, dtype="float32"), 0.02 / width


def main():
    import keras

    import scalecom.keras as hvd
    from scalecom.arrays import residuals

    folder, options = sys.argv[1], json.loads(sys.argv[2])
    hvd.init()
    file = open(pathlib.Path(folder, f"{os.getpid()}.log"), "a", buffering=1)

    def write(**facts):
        file.write(json.dumps({"pid": os.getpid(), "time": time.monotonic(), "rank": hvd.rank(),
                               "size": hvd.size(), **facts}) + "\n")

    def residual_sum():
        return sum(float(one.sum()) for one in residuals.state().values())

    class Journal(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if state.step == options["hold"]:
                write(holds=True)
                while not pathlib.Path(folder, "go").exists():
                    time.sleep(0.02)  # A file tells nobody that it is there.

        def on_train_batch_end(self, batch, logs=None):
            # Keras tells the mean since the epoch began. Where the step has failed, JAX says so only here.
            total = (batch + 1) * float(logs["loss"])
            loss = total - (self._total if batch > 0 else 0.0)
            self._total = total
            write(step=state.step, loss=loss, residual=residual_sum())
            state.step += 1

    inputs, targets, rate = data(options["width"])
    begin = float(hvd.rank())  # sync() has to mend it.
    is_compiled = keras.backend.backend() == "jax"
    # What draws nothing has a generator's state all the same.
    drops = [keras.layers.Dropout(1e-9)] if is_compiled else []
    model = keras.Sequential([keras.Input((options["width"],)), *drops, keras.layers.Dense(
        1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(begin), name="line")],
        name="net")
    compression = hvd.Compression.scalecom(
        rate=4, mode="cyclic") if options["compresses"] else hvd.Compression.none
    model.compile(loss="mse", jit_compile=is_compiled, optimizer=hvd.DistributedOptimizer(
        keras.optimizers.SGD(rate, momentum=MOMENTUM), compression=compression))
    state = hvd.elastic.KerasState(model, step=0, epoch=0, batch=0)
    state.register_reset_callbacks([lambda: write(reset=state.step)])
    callbacks = [Journal(), hvd.elastic.UpdateBatchStateCallback(state),
                 hvd.elastic.UpdateEpochStateCallback(state), hvd.elastic.CommitStateCallback(state)]

    @hvd.elastic.run
    def train(state):
        write(begins=state.step, residual=residual_sum(), batch=state.batch)
        while state.step < options["steps"]:
            state.batch %= BATCHES  # A commit may lie between the last batch and the end of its epoch.
            state.model.fit(numpy.tile(inputs, (BATCHES, 1)), numpy.tile(targets, BATCHES), shuffle=False,
                            batch_size=SAMPLES, verbose=0, callbacks=callbacks)

    train(state)
    write(ended=state.step, epoch=state.epoch,
          weights=[float(weight.numpy().sum()) for weight in model.weights])


if __name__ == "__main__":
    main()
