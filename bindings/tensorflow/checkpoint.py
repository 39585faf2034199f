"""Residuals in a tf.train.Checkpoint."""

import contextlib
import io
import logging
import reprlib
import zipfile

import numpy
import tensorflow as tf

from scalecom import basics
from scalecom.arrays import residuals
from scalecom.process_sets import global_process_set, used
from scalecom.reductions import Average
from scalecom.residuals import compression_steps
from scalecom.saved_residuals import files_of, is_taking_part, load_from_all, read, warn_of_left_out, write
from scalecom.variables import names_of


class SavedResiduals(tf.train.experimental.PythonState):
    """What this rank owes of the gradients of `variables`, for a tf.train.Checkpoint.

    variables: in the order in which the tape's gradient() or the optimizer takes them; ValueError where there
    are none, as of a model that is not built. use_generic_names and process_set: as there. Every rank writes a
    checkpoint of its own, and restores it after init(), with no step under way. One of another rank, or of
    another number of ranks, gives the steps and residuals of zero; one that was written outside of a session
    lets them begin anew; a warning says each, and where the session has residuals, and none of these
    variables. ValueError where what was saved is not of the variables' shapes, or not finite, or not what was
    written: no residual is changed then.
    """

    def __init__(self, variables, use_generic_names=False, process_set=global_process_set):
        variables = list(variables)
        if not variables:
            raise ValueError("variables is empty; give those that are trained: a model has them once it is built "
                             "(model.build(input_shape), or a first batch)")
        names = [f"grad_{place}" for place in range(len(variables))] if use_generic_names else names_of(variables)
        self._shapes = {name: tuple(variable.shape) for name, variable in zip(names, variables)}
        self._process_set = process_set

    def _warn_of_strangers(self):
        present = compression_steps().keys()
        if present and not present & self._shapes.keys():
            logging.getLogger("scalecom").warning(
                "SavedResiduals has no variable of which there is a residual: it has %s, and there are those of %s. "
                "Give it the variables, and use_generic_names, as the tape or the optimizer has them",
                reprlib.repr(list(self._shapes)), reprlib.repr(sorted(present)))

    def serialize(self):
        """The bytes that TensorFlow puts into the checkpoint."""
        if not is_taking_part(self._process_set):
            return b""
        with used(self._process_set):
            self._warn_of_strangers()
            saved = residuals.model_state(self._shapes.keys())
        store, packed = {}, io.BytesIO()
        write(store, self._shapes, saved)
        numpy.savez(packed, **store)
        return packed.getvalue()

    def deserialize(self, string_value):
        """Takes up what serialize() gave."""
        if not is_taking_part(self._process_set):
            warn_of_left_out("the checkpoint", self._process_set)
            return
        saved = self._unpacked(string_value)
        with used(self._process_set):
            self._warn_of_strangers()
            residuals.load_model_state(saved, self._shapes)

    def load_checkpoints(self, paths, name="residuals", op=Average):
        """Takes up what the ranks of a former job, of any number, owed. paths: of the checkpoints that all of them,
        those of the process set, wrote at one moment. name: what tf.train.Checkpoint(...) has this object as. op: of
        the tape or the optimizer. Every rank calls it, after init() and where the checkpoint's other parts have been
        read. ValueError where that of a rank is missing, or has no residuals, or they are not of one moment or of
        the variables' shapes; TensorFlow's NotFoundError where there is no such file."""
        @contextlib.contextmanager
        def open_store(path):
            reader, key = tf.train.load_checkpoint(path), f"{name}/.ATTRIBUTES/py_state"
            packed = reader.get_tensor(key) if reader.has_tensor(key) else b""
            if not packed:
                raise ValueError(f"{path} has no residuals as {name!r}: the name is the one that SavedResiduals has in "
                                 "tf.train.Checkpoint(...), which was written in a session")
            with numpy.load(io.BytesIO(packed), allow_pickle=False) as store:
                yield store

        if self._process_set.included():
            load_from_all(files_of(paths), open_store, self._shapes, self._process_set, op)

    def _unpacked(self, packed):
        if not packed:
            logging.getLogger("scalecom").warning(
                "the checkpoint was written outside of a session and has no residuals: they begin with zero on "
                "rank %d", basics.rank())
            return {"residuals": {}, "steps": {}}
        try:
            with numpy.load(io.BytesIO(packed), allow_pickle=False) as store:
                return read(store, self._shapes)
        except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as problem:
            raise ValueError(f"the residuals in the checkpoint cannot be read ({problem}); give one that "
                             "SavedResiduals has written, or leave it out of this tf.train.Checkpoint") from problem
