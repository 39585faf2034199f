"""Optimizers of the legacy tf-keras, with gradients that are reduced over all ranks."""

import tensorflow as tf

from scalecom.accumulation import Accumulation, check_again, check_passes
from scalecom.keras_optimizer import OptimizerMixin, check_adasum, take_step


def is_legacy(optimizer):
    """Whether it is an optimizer of tf-keras, of its new or of its older kind."""
    return any(base.__module__.startswith("tf_keras.src.optimizers") for base in type(optimizer).__mro__)


class _Mixin(OptimizerMixin):
    """Overrides of an optimizer whose class it is mixed into."""

    def apply_gradients(self, grads_and_vars, *arguments, **named):
        """As the optimizer's, with gradients that are reduced over all ranks."""
        gradients, variables = map(list, zip(*grads_and_vars))
        apply_own, accumulation = super().apply_gradients, self._scalecom_accumulation

        def step(own, of):
            take_step(self._scalecom, own, of, lambda taken: apply_own(list(zip(taken, of)), *arguments, **named))

        if accumulation is None:
            step(gradients, variables)
        else:
            with tf.init_scope():
                accumulation.build(variables)
            accumulation.add(gradients, variables, step)
        return self.iterations


def distribute(optimizer, reducer, passes, is_average):
    """Makes an optimizer of tf-keras reduce the gradients, and returns it; see DistributedOptimizer."""
    if isinstance(optimizer, _Mixin):
        check_again(optimizer, reducer, passes, is_average)
        return optimizer
    check_passes(optimizer, passes)
    check_adasum(optimizer, reducer)
    kind = type(optimizer)
    # A saved model names the class and its module: they are to lead to the optimizer's own.
    optimizer.__class__ = type(kind)(kind.__name__, (_Mixin, kind), {"__module__": kind.__module__})
    optimizer.__dict__.update(_scalecom=reducer,
                              _scalecom_accumulation=Accumulation(passes, is_average) if passes > 1 else None)
    return optimizer
