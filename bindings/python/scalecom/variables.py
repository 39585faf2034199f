"""Variables of Keras and TensorFlow: their names, and elastic states of them.

A variable has numpy() and assign(), whatever the back end is.
"""

import logging

import numpy

from scalecom import arrays, basics
from scalecom._library import own_name
from scalecom.arrays import residuals
from scalecom.elastic import ObjectState
from scalecom.process_sets import global_process_set
from scalecom.reductions import Average
from scalecom.residuals import KeptResiduals, compression_steps

_VARIABLES = own_name("variables of the elastic state")


def key_of(variable):
    """The same for a Keras variable and the tf.Variable in it."""
    # Its value is another one in each step of JAX's, and none in the optimizer of a loss scale.
    inner = getattr(variable, "_value", None) if hasattr(variable, "path") else None
    if hasattr(inner, "ref"):
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


def variables_of(optimizer):
    """A Keras optimizer's; of the legacy tf-keras they may be a method."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def fetch_jax_state(model):
    """Puts what Keras's JAX back end has in the arguments of its steps into a model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def is_built_throughout(model):
    """Whether a Keras model and all of its layers have their variables."""
    return all(layer.built for layer in model._flatten_layers())


def build_optimizer(optimizer, trainable):
    """Makes its variables, of these trainable ones, where that has not been done."""
    if not getattr(optimizer, "built", False):
        # tf-keras has no `built`, and lets it be done again.
        make = getattr(optimizer, "_create_all_weights", None) or optimizer.build
        make(list(trainable))


class VariablesState(ObjectState):
    """Variables by their values, the residuals of this rank that have their names, and other attributes by
    copies. _read(variable) gives the value as an array; _write(variable, array). `own`: further variables,
    which sync() leaves each rank its own."""

    _is_average = True  # What has residuals is averaged over the ranks, not summed.
    _has_warned = False

    def __init__(self, variables, own=(), /, **kwargs):
        variables = list(variables)
        self._shared = len(variables)
        self._variables = [*variables, *own]
        self._kept = KeptResiduals(residuals, arrays.broadcast_object, arrays.allgather_object)
        self._keep(self._read_all(), self._read_residuals())
        super().__init__(arrays.broadcast_object, basics.rank, **kwargs)

    def _read(self, variable):
        return variable.numpy()

    def _write(self, variable, value):
        variable.assign(value)

    def _names(self):
        """Those of the residuals."""
        return set(names_of(self._variables))

    def _read_all(self):
        return [numpy.array(self._read(variable)) for variable in self._variables]

    def _read_residuals(self):
        names = self._names()
        left_out = sorted(compression_steps().keys() - names)
        if left_out and not self._has_warned:
            self._has_warned = True
            logging.getLogger("scalecom").warning(
                "the residuals of %s are not part of the elastic state, whose variables have other names: "
                "a reset loses them", ", ".join(left_out[:3] + ["..."] * (len(left_out) > 3)))
        return residuals.model_state(names)

    def _keep(self, values, model_state):
        self._values = values
        self._kept.save(model_state)

    def _write_all(self):
        for variable, value in zip(self._variables, self._values):
            self._write(variable, value)

    def save(self):
        """Keeps copies in memory: all of them, or none where it raises."""
        values = self._read_all()  # First: a step that is under way has its residuals then.
        owed = self._read_residuals()
        super().save()
        self._keep(values, owed)

    def restore(self):
        """Makes everything as it was saved last; residuals follow with sync()."""
        self._write_all()
        super().restore()

    def sync(self):
        """Gives all ranks the state of rank 0, and saves it once all of it is here; residuals stay each
        rank's own."""
        values = self._read_all()
        arrays.check_counts(self._shared, "variables of the state")
        values[:self._shared] = arrays.broadcast(
            [f"broadcast.{_VARIABLES}.{place}" for place in range(self._shared)], values[:self._shared], 0)
        self.sync_own()
        owed = self._read_residuals()
        super().sync()
        self._keep(values, owed)
        self._write_all()

    def sync_own(self):
        self._kept.sync(self._names(), self._is_average)


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
        build_optimizer(optimizer, model.trainable_variables)
        self.model, self.optimizer = model, optimizer
        self._is_average = not self._reducer or self._reducer.op == Average
        shared = [*model.weights, *variables_of(optimizer)]
        keys = set(map(id, shared))
        super().__init__(shared, [one for one in model.variables if id(one) not in keys], **kwargs)

    def _names(self):
        if hasattr(self.optimizer, "_trainable_variables"):
            return set(shapes_of(self.optimizer))
        return set(names_of(self.model.trainable_variables))

    def _write_all(self):
        if hasattr(self.model, "jax_state_sync"):
            # What a batch that failed has left there would overwrite the variables.
            self.model._jax_state, self.model._jax_state_synced = None, True
        super()._write_all()

    def save(self):
        """Keeps copies in memory: all of them, or none where it raises."""
        fetch_jax_state(self.model)
        super().save()

    def reset(self):
        """Forgets what is of the former ranks: a step half-way, and their number in a graph."""
        if self._reducer:
            self.optimizer.forget_step()
        if getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)
