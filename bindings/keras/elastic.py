"""Elastic training with Keras: ``hvd.elastic``.

    state = hvd.elastic.KerasState(model, epoch=0, batch=0)

    @hvd.elastic.run
    def train(state):
        state.model.fit(..., epochs=epochs - state.epoch, callbacks=[
            hvd.elastic.UpdateEpochStateCallback(state), hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.CommitStateCallback(state, batches_per_commit=10)])

    train(state)  # run() calls it again after a reset, and after the rest of an epoch that a reset interrupted.
"""

from scalecom.elastic import ObjectState
from scalecom.keras.backend import Callback
from scalecom.keras.backend import elastic_run as run
from scalecom.variables import ModelState

__all__ = ["CommitStateCallback", "KerasState", "ObjectState", "UpdateBatchStateCallback",
           "UpdateEpochStateCallback", "run"]


class KerasState(ModelState):
    __doc__ = ModelState.__doc__


class _StateCallback(Callback):
    def __init__(self, state):
        super().__init__()
        self.state = state


class CommitStateCallback(_StateCallback):
    """Commits the state after every batches_per_commit batches and after each epoch. Behind the callbacks
    that change the state in the list, its commits have what they wrote."""

    def __init__(self, state, batches_per_commit=1):
        if batches_per_commit < 1:
            raise ValueError(f"batches_per_commit is {batches_per_commit}; it must be 1 or more")
        super().__init__(state)
        self._batches_per_commit = batches_per_commit

    def on_train_begin(self, logs=None):
        self._batches_left = self._batches_per_commit

    def on_train_batch_end(self, batch, logs=None):
        self._batches_left -= 1
        if self._batches_left == 0:
            self._batches_left = self._batches_per_commit
            self.state.commit()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.state.commit()


_END_OF_EPOCH = "the end of this epoch"


class UpdateBatchStateCallback(_StateCallback):
    """state.batch is the number of batches that are done in this epoch. The first epoch of a fit() that begins
    with some done makes as many fewer, at least one, where fit() knows how many an epoch has: what is left of
    it after a reset. They are the first ones of what fit() is given; a program that leaves out by itself what was
    seen sets state.batch to 0 before.

    fit() ends with such an epoch, as Keras cannot begin another one behind it. Where it was to make more,
    hvd.elastic.run calls its function again, which gives fit() the epochs that are left by state.epoch."""

    def on_train_begin(self, logs=None):
        self._done_before = self.state.batch
        self._epochs_done = 0
        self.state.is_cut_short = False

    def on_train_batch_end(self, batch, logs=None):
        self.state.batch = self._done_before + batch + 1
        steps = self.params.get("steps")
        if self._done_before and steps and self.state.batch >= steps and not self.model.stop_training:
            self.model.stop_training = _END_OF_EPOCH

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.state.batch = self._done_before = 0
        self._epochs_done = epoch + 1

    def on_train_end(self, logs=None):
        if self.model.stop_training == _END_OF_EPOCH:  # No other callback means to stop.
            self.state.is_cut_short = self._epochs_done < self.params["epochs"]


class UpdateEpochStateCallback(_StateCallback):
    """state.epoch is the number of epochs that are done, over all calls of fit(): the next one is to make
    `epochs - state.epoch`, or to begin with initial_epoch=state.epoch."""

    def on_train_begin(self, logs=None):
        self._done_before = self.state.epoch
        self._first = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._first is None:
            self._first = epoch

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.state.epoch = self._done_before + epoch - self._first + 1
