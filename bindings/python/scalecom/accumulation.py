"""Gradients of several backward passes of a Keras optimizer, of which one step is made."""

import weakref

import keras

from scalecom.variables import key_of

_all = weakref.WeakSet()


def forget_steps():
    """Has all optimizers give up what they accumulated for a step half-way."""
    for accumulation in _all:
        accumulation.forget()


def check_passes(optimizer, passes):
    """Raises ValueError for a number of backward passes that the optimizer cannot be given."""
    if passes < 1:
        raise ValueError(f"backward_passes_per_step is {passes}; it must be 1 or more")
    of_keras = steps_of_keras(optimizer)
    if passes > 1 and of_keras:
        raise ValueError(f"backward_passes_per_step is {passes} and the optimizer has "
                         f"gradient_accumulation_steps={of_keras}; give one of them: the former reduces once "
                         "in a step, the latter in each batch")


def steps_of_keras(optimizer):
    """gradient_accumulation_steps of a Keras optimizer, or None."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "gradient_accumulation_steps", None)


def _clear(variable):
    variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


class Accumulation:
    """The gradients' sums, and how many passes they are of, in variables beside the optimizer's own: on
    JAX a step has them as arguments. passes: in a step. is_average: it is made of their average."""

    def __init__(self, passes, is_average):
        self._passes = passes
        self._is_average = is_average
        self._places = {}
        self.variables = []  # The number of passes, then the sums.
        _all.add(self)

    def build(self, trainable):
        """Makes the variables; outside of a graph."""
        self._places = {key_of(one): place for place, one in enumerate(trainable, 1)}
        self.variables = [keras.Variable("zeros", shape, dtype, trainable=False) for shape, dtype in (
            ((), "int32"), *((one.shape, one.dtype) for one in trainable))]

    def forget(self):
        """Begins anew."""
        for variable in self.variables:
            _clear(variable)

    def _of_step(self, sums):
        return [one / self._passes if self._is_average and one is not None else one for one in sums]

    def add(self, gradients, variables, take_step):
        """Adds the gradients up; after so many calls take_step(gradients), and they begin again."""
        totals = [None if gradient is None else self.variables[self._places[key_of(variable)]]
                  for gradient, variable in zip(gradients, variables)]
        for total, gradient in zip(totals, gradients):
            if total is not None:
                total.assign_add(keras.ops.convert_to_tensor(gradient))
        passes = (self.variables[0] + 1) % self._passes
        self.variables[0].assign(passes)

        def end_step():
            take_step(self._of_step(None if total is None else keras.ops.copy(total)
                                    for total in totals))
            for total in filter(lambda one: one is not None, totals):
                _clear(total)
            return True

        if keras.backend.backend() == "tensorflow":
            keras.ops.cond(keras.ops.equal(passes, 0), end_step, lambda: False)
        elif int(passes) == 0:  # JAX's cond would trace what changes variables.
            end_step()

    def add_stateless(self, values, gradients, take_step, wait):
        """The same on values of the variables, all of which have a gradient or None here. Returns what
        take_step(gradients) does, or wait() between two steps, and the new values."""
        passes, *sums = values
        passes = (passes + 1) % self._passes
        sums = [total if gradient is None else total + gradient
                for total, gradient in zip(sums, gradients)]

        def end_step():
            step = self._of_step(None if gradient is None else total
                                 for total, gradient in zip(sums, gradients))
            return take_step(step), [keras.ops.zeros_like(total) for total in sums]

        result, sums = keras.ops.cond(passes == 0, end_step, lambda: (wait(), sums))
        return result, [passes, *sums]
