"""Variables of Keras and TensorFlow: their names, and elastic states of them.

A variable has numpy() and assign(), whatever the back end is.
"""

import numpy

from scalecom import arrays, basics
from scalecom.arrays import residuals
from scalecom.elastic import ObjectState
from scalecom.process_sets import global_process_set
from scalecom.reductions import Adasum, Average
from scalecom.residuals import KeptResiduals


def key_of(variable):
    """The same for a Keras variable and the tf.Variable in it."""
    inner = getattr(variable, "value", None)
    if inner is not None and not callable(inner):
        variable = inner
    return variable.ref() if hasattr(variable, "ref") else id(variable)


def check_groups(groups):
    """Raises ValueError unless it is a number of groups, or lists of variables without one twice."""
    if isinstance(groups, int) and groups >= 0:
        return
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, (list, tuple))
                                                        for group in groups):
        raise ValueError(f"groups is {groups!r}; allowed are a number of groups, 0 or more, and a "
                         "list of lists of variables")
    keys = [key_of(variable) for group in groups for variable in group]
    if len(set(keys)) < len(keys):
        raise ValueError("groups has a variable more than once; it can be in one group only")


def names_of(variables):
    """A name for each: the path of a Keras variable, the name of a tf.Variable; else its place. What
    is there twice gets its place too."""
    names, seen = [], set()
    for place, variable in enumerate(variables):
        name = getattr(variable, "path", None)
        if name is None and hasattr(variable, "assign"):
            name = variable.name.partition(":")[0]
        name = str(place) if name is None else name
        name = f"{name}.{place}" if name in seen else name
        seen.add(name)
        names.append(name)
    return names


def shapes_of(optimizer):
    """{name: shape} of what a Keras optimizer trains, once it is built."""
    variables = optimizer._trainable_variables if optimizer.built else []
    return {name: tuple(variable.shape) for name, variable in zip(names_of(variables), variables)}


class VariablesState(ObjectState):
    """Variables by their values, other attributes by copies. _read(variable) gives the value as an array;
    _write(variable, array)."""

    def __init__(self, variables, **kwargs):
        self._variables = list(variables)
        self._save_values()
        super().__init__(arrays.broadcast_object, basics.rank, **kwargs)

    def _read(self, variable):
        return variable.numpy()

    def _write(self, variable, value):
        variable.assign(value)

    def _save_values(self):
        self._values = [numpy.array(self._read(variable)) for variable in self._variables]

    def _write_values(self):
        for variable, value in zip(self._variables, self._values):
            self._write(variable, value)

    def save(self):
        """Keeps copies in memory."""
        self._save_values()
        super().save()

    def restore(self):
        """Makes everything as it was saved last."""
        self._write_values()
        super().restore()

    def sync(self):
        """Gives all ranks the state of rank 0, and saves it."""
        self._save_values()
        self._values = arrays.broadcast(
            [f"broadcast.elastic.{place}" for place in range(len(self._values))], self._values, 0)
        self._write_values()
        super().sync()


class ModelState(VariablesState):
    """The weights of a built Keras model, the variables of its optimizer, residuals, and other
    attributes by copies.

    Make it after init(). `state = ...(model, epoch=0)` has state.model, state.optimizer and state.epoch.
    optimizer: the one that the model is compiled with, unless another is given. States of random
    generators stay each rank's own. ValueError for an optimizer of a process set, which ends with a
    change of ranks.
    """

    def __init__(self, model, optimizer=None, **kwargs):
        optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        if not model.built:
            raise ValueError("the model is not built; call model.build(input_shape) first")
        if optimizer is None:
            raise ValueError("optimizer is None and the model is not compiled; compile it, or give the "
                             "optimizer")
        self._reducer = optimizer.__dict__.get("_scalecom")
        if self._reducer and self._reducer.process_set is not global_process_set:
            raise ValueError(f"the optimizer is of {self._reducer.process_set}, which ends with a change "
                             "of ranks; an elastic state takes those of all ranks")
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self.model, self.optimizer = model, optimizer
        self._kept = KeptResiduals(residuals, arrays.broadcast_object, arrays.allgather_object)
        self._save_residuals()
        super().__init__([*model.weights, *optimizer.variables], **kwargs)

    def _save_residuals(self):
        if self._reducer:
            self._kept.save(residuals.model_state(shapes_of(self.optimizer)))

    def save(self):
        """Keeps copies in memory."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # Between two batches the state is not in the variables.
        self._save_residuals()
        super().save()

    def sync(self):
        """Gives all ranks the state of rank 0, and saves it; residuals stay each rank's own."""
        if self._reducer and self._reducer.op != Adasum:
            self._kept.sync(set(shapes_of(self.optimizer)), self._reducer.op == Average)
            self._save_residuals()
        super().sync()

    def reset(self):
        """Forgets what is of the former ranks: a step half-way, and their number in a graph."""
        if self._reducer:
            self.optimizer.forget_step()
        if getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)
