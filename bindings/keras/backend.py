"""What Keras's back ends need each: an adapter of scalecom, and how it reduces gradients.

adapter: its module, with allreduce, allgather, broadcast, Compression. Reducer: its GradientReducer. They are
all that the rest of scalecom.keras knows of a back end.
"""

import itertools
import warnings

import keras

from scalecom import _library, elastic, process_sets
from scalecom.compression import gradient_options
from scalecom.process_sets import used
from scalecom.reducer import GradientReducer


def _load_jax():
    import scalecom.jax as adapter
    from scalecom.jax.collectives import reduce_all

    class Reducer(GradientReducer):
        def _reduce_all(self, gradients, names, op, prescale_factor, postscale_factor):
            options = [gradient_options(self.compression, name, gradient)
                       for name, gradient in zip(names, gradients)]
            return reduce_all(gradients, [f"allreduce.{name}" for name in names], op, prescale_factor,
                              postscale_factor, self.compression, options, self.process_set)

    return adapter, Reducer


def _load_torch():
    import scalecom.torch as adapter
    from scalecom.torch import mpi_ops, submit
    from scalecom.torch.eager import eager

    for function in (GradientReducer.reduce, GradientReducer.reduce_changes):
        eager(function)  # Of what compile(jit_compile=True) traces.

    class Reducer(GradientReducer):
        def _reduce_all(self, gradients, names, op, prescale_factor, postscale_factor):
            wires = []
            compression = mpi_ops.place_for(op, gradients, self.compression)

            def start(place, name, gradient):
                wire, context = compression.compress(submit.contiguous(gradient.detach()))
                wires.append((wire, context))
                return submit.all_reduce(wire, wire, name, submit.reduction_of(
                    op, prescale_factor, postscale_factor,
                    gradient_options(self.compression, name, gradient), -1 - place))

            with used(self.process_set):
                _library.run_all(map(start, itertools.count(), names, gradients))
            return [compression.decompress(wire, context) for wire, context in wires]

    return adapter, Reducer


def _load_tensorflow():
    import scalecom.tensorflow as adapter
    from scalecom.tensorflow.reducer import Reducer
    return adapter, Reducer


_LOADERS = {"jax": _load_jax, "tensorflow": _load_tensorflow, "torch": _load_torch}


def _load(name):
    if name not in _LOADERS:
        raise ImportError(f"scalecom.keras does not work on Keras's back end {name!r}; set KERAS_BACKEND "
                          f"to one of {', '.join(_LOADERS)}")
    return _LOADERS[name]()


class Callback(keras.callbacks.Callback):
    """Of a model whose batches call scalecom's operations, which XLA cannot compile."""

    def set_model(self, model):
        super().set_model(model)
        # Here, as fit() makes its function before on_train_begin.
        if keras.backend.backend() == "tensorflow" and model.jit_compile:
            model.jit_compile = False
            warnings.warn("the model was to be compiled by XLA, which cannot compile scalecom's operations: "
                          "jit_compile is False now; say so in compile(jit_compile=False)", stacklevel=2)

    def on_epoch_end(self, epoch, logs=None):
        """Raises the error of a step that failed: on JAX Keras has left it in the logs, and would go on."""
        for value in (logs or {}).values():
            if hasattr(value, "block_until_ready"):
                value.block_until_ready()


adapter, Reducer = _load(keras.backend.backend())
join = adapter.join if keras.backend.backend() == "torch" else process_sets.join  # torch's knows the device.
elastic_run = adapter.elastic.run if hasattr(adapter, "elastic") else elastic.run
