"""Elastic training with Keras: ``hvd.elastic``.

    state = hvd.elastic.KerasState(model, epoch=0, batch=0)

    @hvd.elastic.run
    def train(state):
        state.model.fit(..., epochs=epochs - state.epoch, callbacks=[
            hvd.elastic.UpdateEpochStateCallback(state), hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.CommitStateCallback(state, batches_per_commit=10)])
"""

import keras

from scalecom.elastic import ObjectState
from scalecom.keras.backend import elastic_run as run
from scalecom.keras.backend import refuse_xla
from scalecom.variables import ModelState

__all__ = ["CommitStateCallback", "KerasState", "ObjectState", "UpdateBatchStateCallback",
           "UpdateEpochStateCallback", "run"]


class KerasState(ModelState):
    __doc__ = ModelState.__doc__


class _StateCallback(keras.callbacks.Callback):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def set_model(self, model):
        super().set_model(model)
        refuse_xla(model)  # fit() makes its function before on_train_begin.


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
        self.state.commit()


class UpdateBatchStateCallback(_StateCallback):
    """state.batch is the number of the last batch that is done in this epoch. To leave done batches out
    after a reset is the program's: fit() begins an epoch with what it is given."""

    def on_train_batch_end(self, batch, logs=None):
        self.state.batch = batch

    def on_epoch_end(self, epoch, logs=None):
        self.state.batch = 0


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
        self.state.epoch = self._done_before + epoch - self._first + 1
