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


def check_again(optimizer, reducer, passes, is_average):
    """Raises ValueError unless an optimizer that is distributed has these settings."""
    accumulation = optimizer._scalecom_accumulation
    has = (accumulation.passes, accumulation.is_average) if accumulation else (1, False)
    if not reducer.is_like(optimizer._scalecom) or has != (passes, is_average and passes > 1):
        raise ValueError("optimizer is distributed already, with other settings; give DistributedOptimizer the "
                         "same ones, or another optimizer")


def steps_of_keras(optimizer):
    """gradient_accumulation_steps of a Keras optimizer, or None."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "gradient_accumulation_steps", None)


def _is_eager():
    import tensorflow as tf
    return tf.executing_eagerly()


def _clear(variable):
    variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


class Accumulation:
    """The gradients' sums, and how many passes they are of, in variables beside the optimizer's own: on
    JAX a step has them as arguments. passes: in a step. is_average: it is made of their average.

    A step has the gradients that any of its passes had. A graph does not know what others had, when it is made:
    its step has those that it or an earlier graph had, as zeros where no pass had them.
    """

    def __init__(self, passes, is_average):
        self.passes = passes
        self.is_average = is_average
        self._trainable = []
        self._places = {}
        self._given = set()  # Places in `variables` that have had a gradient since the last step.
        self._given_in_graphs = set()
        self._missed_in_graphs = set()  # What graphs have no gradient of in their steps.
        self.variables = []  # The number of passes, then the sums.
        _all.add(self)

    def build(self, trainable):
        """Makes the variables, unless they are there: graphs may have them. Outside of a graph."""
        if self.variables:
            return
        self._trainable = list(trainable)
        self._places = {key_of(one): place for place, one in enumerate(trainable, 1)}
        self.variables = [keras.Variable("zeros", shape, dtype, trainable=False) for shape, dtype in (
            ((), "int32"), *((one.shape, one.dtype) for one in trainable))]

    def forget(self):
        """Begins anew."""
        self._given.clear()
        for variable in self.variables:
            _clear(variable)

    def _places_of(self, variables):
        unknown = [variable for variable in variables if key_of(variable) not in self._places]
        if unknown:
            raise ValueError(f"the optimizer was not built with {unknown[0]}; what it is given must be of the "
                             "variables that it was built with: make another optimizer")
        return [self._places[key_of(variable)] for variable in variables]

    def _note(self, places, gradients, is_graph):
        """Takes note of a pass; returns the places that a step has which ends with it."""
        given = {place for place, gradient in zip(places, gradients) if gradient is not None}
        if not is_graph:
            self._given |= given
            return self._given | self._given_in_graphs
        late = sorted(given & self._missed_in_graphs)
        if late:
            raise ValueError(
                f"{self._trainable[late[0] - 1].name} has a gradient, and had none when an earlier graph was made, "
                "whose steps leave it out. With backward_passes_per_step above 1 give zeros in the place of None, "
                "make another optimizer, or compile(run_eagerly=True)")
        self._given_in_graphs |= given
        self._missed_in_graphs |= set(places) - self._given_in_graphs
        return set(self._given_in_graphs)

    def _of_step(self, sums):
        return [one / self.passes if self.is_average and one is not None else one for one in sums]

    def add(self, gradients, variables, take_step):
        """Adds the gradients up; after so many calls take_step(gradients, variables), and they begin again."""
        is_tensorflow = keras.backend.backend() == "tensorflow"
        places = self._places_of(variables)
        of_step = self._note(places, gradients, is_tensorflow and not _is_eager())
        for place, gradient in zip(places, gradients):
            if gradient is not None:
                self.variables[place].assign_add(keras.ops.convert_to_tensor(gradient))
        passes = (self.variables[0] + 1) % self.passes
        self.variables[0].assign(passes)

        def end_step():
            # A variable may have been frozen since an earlier pass.
            all_places = places + sorted(of_step - set(places))
            take_step(self._of_step(keras.ops.copy(self.variables[place]) if place in of_step else None
                                    for place in all_places),
                      [*variables, *(self._trainable[place - 1] for place in all_places[len(places):])])
            for place in of_step:
                _clear(self.variables[place])
            self._given.clear()
            return True

        if is_tensorflow:
            keras.ops.cond(keras.ops.equal(passes, 0), end_step, lambda: False)
        elif int(passes) == 0:  # JAX's cond would trace what changes variables.
            end_step()

    def add_stateless(self, values, gradients, take_step, wait):
        """The same on values of the variables, all of which have a gradient or None here. Returns what
        take_step(gradients) does, or wait() between two steps, and the new values."""
        passes, *sums = values
        of_step = self._note(range(1, 1 + len(sums)), gradients, is_graph=True)
        passes = (passes + 1) % self.passes
        sums = [total if gradient is None else total + gradient
                for total, gradient in zip(sums, gradients)]

        def end_step():
            step = self._of_step(total if place in of_step else None for place, total in enumerate(sums, 1))
            return take_step(step), [keras.ops.zeros_like(total) for total in sums]

        result, sums = keras.ops.cond(passes == 0, end_step, lambda: (wait(), sums))
        return result, [passes, *sums]
