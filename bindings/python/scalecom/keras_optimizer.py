"""What makes an optimizer of Keras 3 a distributed one, for scalecom.keras and scalecom.tensorflow."""

import contextlib
import warnings

import keras

from scalecom.accumulation import Accumulation, check_again, check_passes, steps_of_keras
from scalecom.loss_scale import NotInsideLossScale
from scalecom.reductions import Adasum
from scalecom.saved_residuals import SavedResiduals


def _outside_of_graphs():
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf
    return tf.init_scope()


def check_adasum(optimizer, reducer):
    """Raises ValueError for what goes wrong with an Adasum of steps."""
    if reducer.op == Adasum and getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False):
        raise ValueError("use_ema is True and op is Adasum: the moving average would be of this rank's own steps, "
                         "and not of those that all take; give use_ema=False")


def take_step(reducer, gradients, variables, apply_own):
    """Makes a step with reduced gradients by the optimizer's apply_own(gradients); with op Adasum by this rank's
    own ones, and each variable becomes what it was plus the Adasum of the ranks' changes."""
    if reducer.op != Adasum:
        apply_own(reducer.reduce(gradients, variables))
        return
    shared = reducer.reduced_of(variables)
    starts = [keras.ops.copy(variable) for variable in shared]
    apply_own(reducer.scale_local(gradients, variables))
    for variable, value in zip(shared, _reduced(reducer, starts, shared, shared)):
        variable.assign(value)


def _reduced(reducer, starts, ends, variables):
    """The variables' values after the Adasum of the ranks' steps, from starts to ends. Between two values that
    a constraint allows, on different ranks, there may be one that it does not."""
    changes = reducer.reduce_changes(
        [keras.ops.subtract(end, start) for start, end in zip(starts, ends)], variables)
    constraints = [getattr(variable, "constraint", None) or (lambda value: value) for variable in variables]
    return [constraint(start + change) for constraint, start, change in zip(constraints, starts, changes)]


class OptimizerMixin:
    """What every optimizer of Keras, the legacy ones too, has besides when it is distributed."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def forget_step(self):
        """Gives up what was accumulated for a step half-way."""
        if self._scalecom_accumulation is not None:
            self._scalecom_accumulation.forget()


class _Mixin(OptimizerMixin, NotInsideLossScale):
    """Overrides of an optimizer whose class it is mixed into."""

    @contextlib.contextmanager
    def _as_plain(self):
        """Within it the optimizer is as if it were not distributed."""
        before = self._scalecom_is_plain
        self.__dict__["_scalecom_is_plain"] = True
        try:
            yield
        finally:
            self.__dict__["_scalecom_is_plain"] = before

    @property
    def variables(self):
        """The optimizer's; on JAX, where a step has them as arguments, also what was accumulated for one."""
        own = super().variables
        accumulation = self._scalecom_accumulation
        if accumulation is None or self._scalecom_is_plain or keras.backend.backend() != "jax":
            return own
        return own + accumulation.variables

    def build(self, variables):
        super().build(variables)
        if self._scalecom_accumulation is not None:
            self._scalecom_accumulation.build(variables)

    def save_own_variables(self, store):
        """As the optimizer's: files have no step half-way."""
        with self._as_plain():
            super().save_own_variables(store)

    def load_own_variables(self, store):
        """As the optimizer's; a step half-way is given up."""
        with self._as_plain():
            super().load_own_variables(store)
        self.forget_step()

    def apply(self, grads, trainable_variables=None):
        """As the optimizer's, with gradients that are reduced over all ranks."""
        grads = list(grads)
        variables = list(self._trainable_variables if trainable_variables is None
                         else trainable_variables)
        if self._scalecom_is_plain or not grads or len(grads) != len(variables):
            return super().apply(grads, trainable_variables)  # The latter is an error.
        if self._scalecom_accumulation is None:
            return self._take_step(grads, variables)
        if not self.built:
            with _outside_of_graphs():
                self.build(variables)
        return self._scalecom_accumulation.add(grads, variables, self._take_step)

    def _take_step(self, grads, variables):
        apply_own = super().apply
        with self._as_plain():
            take_step(self._scalecom, grads, variables, lambda gradients: apply_own(gradients, variables))

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As the optimizer's, with gradients that are reduced over all ranks."""
        accumulation = self._scalecom_accumulation
        if accumulation is None or not self.built or self._scalecom_is_plain:
            return self._take_stateless_step(optimizer_variables, list(grads), trainable_variables)
        if keras.backend.backend() != "jax":
            raise NotImplementedError("stateless_apply with backward_passes_per_step above 1 needs Keras's JAX back "
                                      "end; call apply()")
        own = len(optimizer_variables) - len(accumulation.variables)
        plain, values = list(optimizer_variables[:own]), optimizer_variables[own:]
        before = list(trainable_variables), plain
        after, values = accumulation.add_stateless(
            values, list(grads), lambda gradients: self._take_stateless_step(plain, gradients, before[0]),
            lambda: before)
        return after[0], [*after[1], *values]

    def _take_stateless_step(self, optimizer_variables, grads, trainable_variables):
        # A LossScaleOptimizer's does not come to apply().
        reducer, variables = self._scalecom, self._trainable_variables
        is_plain, is_delta = self._scalecom_is_plain, reducer.op == Adasum
        if self.built and not is_plain:
            grads = (reducer.scale_local if is_delta else reducer.reduce)(grads, variables)
        with self._as_plain():
            ends, optimizer_variables = super().stateless_apply(optimizer_variables, grads,
                                                                trainable_variables)
        if is_delta and not is_plain:
            shared = set(map(id, reducer.reduced_of(variables)))
            places = [place for place, one in enumerate(variables) if id(one) in shared]
            values = _reduced(reducer, [trainable_variables[place] for place in places],
                              [ends[place] for place in places], [variables[place] for place in places])
            for place, value in zip(places, values):
                ends[place] = value
        return ends, optimizer_variables


def _exported_class(kind):
    """The first of a class's bases that Keras finds by its name when it loads a model: the torch back
    end's own ones stand for others."""
    for base in kind.__mro__:
        if getattr(keras.optimizers, base.__name__, None) is base:
            return base
    return kind


def is_distributed(optimizer):
    return isinstance(optimizer, _Mixin)


def distribute(optimizer, reducer, passes, is_average):
    """Makes a Keras optimizer reduce the gradients by a GradientReducer, and returns it; see
    scalecom.keras.DistributedOptimizer. passes: of backward, in a step. One that does so already stays as it
    is."""
    if is_distributed(optimizer):
        check_again(optimizer, reducer, passes, is_average)
        return optimizer
    check_passes(optimizer, passes)
    check_adasum(optimizer, reducer)
    if steps_of_keras(optimizer):
        warnings.warn(
            f"gradient_accumulation_steps is {steps_of_keras(optimizer)}; gradients are reduced in each batch "
            f"all the same. To reduce them once in a step give DistributedOptimizer(backward_passes_per_step="
            f"{steps_of_keras(optimizer)}, average_aggregated_gradients=True) in its place", stacklevel=3)
    accumulation = Accumulation(passes, is_average) if passes > 1 else None
    if accumulation is not None and optimizer.built:
        accumulation.build(optimizer._trainable_variables)
    kind = type(optimizer)
    exported = _exported_class(kind)
    # A saved model names the class and its module: they are to lead to the optimizer's own.
    optimizer.__class__ = type(exported.__name__, (_Mixin, kind), {"__module__": exported.__module__})
    optimizer.__dict__.update(_scalecom=reducer, _scalecom_accumulation=accumulation,
                              _scalecom_is_plain=False,
                              scalecom_residuals=SavedResiduals(optimizer, reducer))
    return optimizer
