"""The residuals of a model in its files: of a Keras model, and how they lie in any store."""

import contextlib
import json
import logging
import os
import zipfile

import h5py
import keras
import numpy

from scalecom import basics
from scalecom.arrays import residuals
from scalecom.compression import ScaleComCompressor
from scalecom.process_sets import used
from scalecom.reductions import Sum
from scalecom.variables import shapes_of


@contextlib.contextmanager
def _open_store(path):
    """What save_own_variables() has written into a file of model.save() or save_weights()."""
    with contextlib.ExitStack() as stack:
        file = path
        if str(path).endswith(".keras"):
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = stack.enter_context(archive.open("model.weights.h5"))
        group = stack.enter_context(h5py.File(file, "r")).get("optimizer/scalecom_residuals/vars", {})
        if "facts" not in group:
            raise ValueError(f"{path} has no residuals: its model's optimizer had no Compression.scalecom. "
                             "Load one of the files alone")
        yield group


def _facts_in(store):
    """Whose the residuals are, and the step and beta of each."""
    return json.loads(numpy.asarray(store["facts"]).tobytes())


def write(store, names, saved):
    """Puts a model_state() into `store`, which takes arrays by names: by the places of `names`, as the paths of
    a model's variables are others once it comes from a file."""
    facts = {number: [saved["steps"][name], saved["betas"][name]]
             for number, name in enumerate(names) if name in saved["residuals"]}
    store["facts"] = numpy.frombuffer(json.dumps(
        {"rank": saved["rank"], "size": saved["size"], "variables": facts}).encode(), numpy.uint8)
    for number, name in enumerate(names):
        if number in facts:
            store[str(number)] = saved["residuals"][name]


def read(store, names):
    """What write() has put there, as a model_state()."""
    facts = _facts_in(store)
    names = dict(enumerate(names))
    saved = {"residuals": {}, "steps": {}, "betas": {}, "rank": facts["rank"], "size": facts["size"]}
    for number, (step, beta) in facts["variables"].items():
        name = names.get(int(number), f"variable {number}")
        saved["residuals"][name] = numpy.asarray(store[number])
        saved["steps"][name], saved["betas"][name] = step, beta
    return saved


def files_of(given):
    """The files that one path or a list of paths names."""
    files = [given] if isinstance(given, (str, os.PathLike)) else list(given)
    if not files:
        raise ValueError("the list of files is empty; give those of all ranks of the former job")
    return files


def load_from_all(paths, open_store, shapes, process_set, op):
    """Takes up what the ranks of a former job owed, from the files of all of them: this rank's own where
    there are as many ranks now, else the fold. open_store(path): a context manager of what write() has put
    there. ValueError where a file is missing or has no residuals, or they are not of one moment. One file after
    the other is in memory."""
    def state_in(path):
        with open_store(path) as store:
            return read(store, shapes)

    facts = {}
    for path in paths:
        with open_store(path) as store:
            facts[path] = _facts_in(store)
    size = len(paths)
    path_of = {one["rank"]: path for path, one in facts.items()}
    sizes = sorted({one["size"] for one in facts.values()})
    if sorted(path_of) != list(range(size)) or sizes != [size]:
        raise ValueError(f"the files are those of the ranks {sorted(path_of)} of "
                         f"{', '.join(map(str, sizes))}; give one of each rank of one job")
    for path, one in facts.items():
        if one["variables"] != facts[paths[0]]["variables"]:
            raise ValueError(f"{path} was saved at other steps, or with other betas, than {paths[0]}; give "
                             "files that the ranks of one job saved at one moment")
    with used(process_set):
        if basics.size() == size:
            state = state_in(path_of[basics.rank()])
        else:
            state = residuals.fold(state_in(path_of[rank]) for rank in range(size))
            scale = size / basics.size() if op == Sum else 1.0
            state["residuals"] = {name: value * numpy.float32(scale)
                                  for name, value in state["residuals"].items()}
        residuals.load_model_state(state, shapes)


def is_taking_part(process_set):
    """Whether this rank has residuals of the process set to save, and takes them up."""
    return basics.is_initialized() and bool(process_set.included())


def warn_of_left_out(where, process_set):
    """Says why residuals that are in `where` are not taken up, where is_taking_part() is false."""
    logging.getLogger("scalecom").warning(
        "the residuals in %s are left out, as %s", where,
        f"this rank is not in {process_set}" if basics.is_initialized() else
        "scalecom is not initialized: call hvd.init() before loading, or load once more after it")


class SavedResiduals(keras.layers.Layer):
    """The part of a distributed optimizer that has its residuals, for Keras to find.

    model.save() and save_weights() write this rank's residuals and steps beside the optimizer's
    variables, where an optimizer that is not distributed does not look; load_weights() and
    hvd.load_model() take them up. A file of another rank, or of another number of ranks, gives the
    steps and residuals of zero; one without residuals lets them begin anew; before init(), outside
    of the process set and where the optimizer is not built they are left out; a warning says each.
    ValueError where a residual is not of the variable's shape, or not finite: none is changed then.
    """

    def __init__(self, optimizer, reducer):
        super().__init__(name="scalecom_residuals")
        # Keras would walk back to the optimizer if it were an attribute.
        self._shapes = lambda: shapes_of(optimizer)
        self._reducer = reducer

    def save_own_variables(self, store):
        if not is_taking_part(self._reducer.process_set):
            return
        with used(self._reducer.process_set):
            saved = residuals.model_state(set(self._shapes()))
        if not saved["residuals"] and not isinstance(self._reducer.compression, ScaleComCompressor):
            return
        write(store, self._shapes(), saved)

    def load_own_variables(self, store):
        if not is_taking_part(self._reducer.process_set):
            if "facts" in store.keys():
                warn_of_left_out("the file", self._reducer.process_set)
            return
        if "facts" not in store.keys():
            self._begin_anew()
            return
        saved = read(store, self._shapes())
        if not self._shapes() and saved["residuals"]:
            logging.getLogger("scalecom").warning(
                "the residuals in the file are left out, as Keras leaves out the optimizer's variables: "
                "the optimizer is not built. Call optimizer.build(model.trainable_variables) before")
            return
        with used(self._reducer.process_set):
            try:
                residuals.load_model_state(saved, self._shapes())
            except ValueError as error:  # Keras comes here last.
                raise ValueError(f"{error} (Residuals are as before; the weights are the file's already: load "
                                 "those of another one before training goes on)") from error

    def load_files(self, paths):
        """Takes up what the ranks of a former job owed, from the files of all of them."""
        load_from_all(paths, _open_store, self._shapes(), self._reducer.process_set, self._reducer.op)

    def _begin_anew(self):
        with used(self._reducer.process_set):
            residuals.load_model_state({"residuals": {}, "steps": {}}, self._shapes())
        if isinstance(self._reducer.compression, ScaleComCompressor):
            logging.getLogger("scalecom").warning(
                "the file has no residuals: they begin with zero on rank %d", basics.rank())
