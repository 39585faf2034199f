"""Callbacks for model.fit()."""

import numbers

import keras
import numpy

from scalecom import arrays, basics
from scalecom._library import own_name
from scalecom.keras.backend import Callback
from scalecom.keras.functions import broadcast_global_variables
from scalecom.reductions import Average, Min
from scalecom.variables import fetch_jax_state, is_built_throughout

__all__ = ["BestModelCheckpoint", "BroadcastGlobalVariablesCallback", "LearningRateScheduleCallback",
           "LearningRateWarmupCallback", "MetricAverageCallback"]

_IS_BUILT = "allreduce." + own_name("question whether the model is built (BroadcastGlobalVariablesCallback)")
_METRICS = "allreduce." + own_name("metrics of an epoch (MetricAverageCallback)")


class BroadcastGlobalVariablesCallback(Callback):
    """Gives the model and its optimizer root_rank's values when training begins: before the first batch where
    the model is built on every rank, else after it, which has built it. Horovod does the latter always.
    local_variables, one or a list, stay each rank's own, but for the optimizer's variables for them.
    `device` is Horovod's."""

    def __init__(self, root_rank, device="", local_variables=None):
        super().__init__()
        self._root_rank = root_rank
        self._has_sent = True
        local = [] if local_variables is None else local_variables
        self._local = [local] if hasattr(local, "assign") else list(local)

    def register_local_var(self, var):
        """This variable stays each rank's own."""
        self._local.append(var)

    def on_train_begin(self, logs=None):
        mine = numpy.array([is_built_throughout(self.model)], "int32")
        # One rank may have its model from a file, the others have theirs to be built.
        self._has_sent = bool(arrays.all_reduce(_IS_BUILT, mine, Min)[0])
        if self._has_sent:
            broadcast_global_variables(self._root_rank, self.model, self._local)

    def on_train_batch_end(self, batch, logs=None):
        if not self._has_sent:
            self._has_sent = True
            broadcast_global_variables(self._root_rank, self.model, self._local)


class MetricAverageCallback(keras.callbacks.Callback):
    """Averages an epoch's metrics over all ranks, for the callbacks behind it in the list."""

    def __init__(self, device=""):
        super().__init__()

    def on_epoch_end(self, epoch, logs=None):
        kinds = sorted(kind for kind, value in (logs or {}).items()
                       if isinstance(value, numbers.Real) or numpy.ndim(value) == 0)
        if not kinds:
            return
        mine = numpy.array([float(logs[kind]) for kind in kinds])
        logs.update(zip(kinds, arrays.all_reduce(_METRICS, mine, Average).tolist()))


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Sets the learning rate to initial_lr * multiplier in the epochs from start_epoch on, before
    end_epoch.

    multiplier: a number, with which staircase is of no matter, or a function of the epoch. staircase:
    once in an epoch, of whole numbers; else before each batch, of fractions, for which
    steps_per_epoch is needed unless fit() knows it. momentum_correction is Horovod's; it must be
    False, since Keras 3 compiles the momentum in.
    """

    def __init__(self, initial_lr, multiplier, start_epoch=0, end_epoch=None, staircase=True,
                 momentum_correction=False, steps_per_epoch=None):
        super().__init__()
        if momentum_correction:
            raise ValueError("momentum_correction is True; Keras 3 compiles the momentum in, so it "
                             "must be False")
        self._initial_lr = initial_lr
        self._multiplier = multiplier if callable(multiplier) else lambda epoch: multiplier
        self._start_epoch, self._end_epoch = start_epoch, end_epoch
        self._staircase = staircase or not callable(multiplier)
        self._steps_per_epoch = steps_per_epoch
        self._epoch = 0

    def on_train_begin(self, logs=None):
        if self._steps_per_epoch is None:
            self._steps_per_epoch = self.params.get("steps")
        if not self._staircase and not self._steps_per_epoch:
            raise ValueError("steps_per_epoch is None and fit() does not know it; give it")

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self._staircase:
            self._set_rate(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if not self._staircase:
            self._set_rate(self._epoch + batch / self._steps_per_epoch)

    def _set_rate(self, epoch):
        if self._start_epoch <= self._epoch and (
                self._end_epoch is None or self._epoch < self._end_epoch):
            fetch_jax_state(self.model)
            self.model.optimizer.learning_rate = self._initial_lr * self._multiplier(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["lr"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raises the learning rate from initial_lr / size() to initial_lr, batch by batch, in the first
    warmup_epochs (Goyal et al., 2017, arXiv 1706.02677)."""

    def __init__(self, initial_lr, warmup_epochs=5, momentum_correction=False, steps_per_epoch=None,
                 verbose=0):
        def multiplier(epoch):
            size = basics.size()
            done = (epoch + 1.0 / self._steps_per_epoch) / warmup_epochs
            return (1.0 + done * (size - 1)) / size

        super().__init__(initial_lr, multiplier, 0, warmup_epochs, False, momentum_correction,
                         steps_per_epoch)
        self._warmup_epochs = warmup_epochs
        self._verbose = verbose

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self._verbose > 0 and epoch == self._warmup_epochs - 1 and basics.rank() == 0:
            print(f"\nepoch {epoch + 1}: the learning rate is warmed up to {self._initial_lr}")


class BestModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Saves the model whenever `monitor` is better than before; rank 0 does it, for all. Behind
    MetricAverageCallback it goes by the ranks' average. Without a filepath here, `filepath` of the callback has to
    be set before fit(). save_freq: "epoch", or a number of batches."""

    def __init__(self, filepath=None, monitor="val_loss", verbose=0, mode="auto",
                 save_weights_only=False, save_freq="epoch"):
        super().__init__("none.weights.h5" if filepath is None else filepath, monitor=monitor, verbose=verbose,
                         save_best_only=True, save_weights_only=save_weights_only, mode=mode, save_freq=save_freq)
        if filepath is None:
            self.filepath = None

    def on_train_begin(self, logs=None):
        if self.filepath is None:
            raise ValueError("filepath is None; give BestModelCheckpoint(filepath=...), or set callback.filepath "
                             "before fit()")
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch, logs=None):
        if basics.rank() == 0:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if basics.rank() == 0:
            super().on_epoch_end(epoch, logs)
