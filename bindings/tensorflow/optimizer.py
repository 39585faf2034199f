"""DistributedOptimizer: an optimizer whose gradients are reduced over all ranks before each step."""

import weakref

import tensorflow as tf

from scalecom.loss_scale import NotInsideLossScale
from scalecom.process_sets import global_process_set
from scalecom.saved_residuals import SavedResiduals
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.delta import reduce_step
from scalecom.tensorflow.mpi_ops import Adasum, Average
from scalecom.tensorflow.reducer import Reducer
from scalecom.variables import key_of


_accumulations = weakref.WeakSet()


def forget_steps():
    """Has all optimizers give up what they accumulated for a step half-way."""
    for accumulation in _accumulations:
        accumulation.forget()


class _Accumulation:
    """Gradients of several calls, added up in variables; a step's worth is reduced and applied."""

    def __init__(self, passes, is_average):
        self._passes = passes
        self._is_average = is_average
        self._sums = {}  # by the variable's key
        self._count = None
        _accumulations.add(self)

    def _make_sums(self, gradients, variables):
        with tf.init_scope():
            if self._count is None:
                self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
            for gradient, variable in zip(gradients, variables):
                if gradient is not None and key_of(variable) not in self._sums:
                    self._sums[key_of(variable)] = tf.Variable(
                        tf.zeros(variable.shape, gradient.dtype), trainable=False)

    def add(self, gradients, variables, apply_step):
        """Adds the gradients; every so many calls apply_step(sums), and they begin again."""
        gradients = [None if gradient is None else tf.convert_to_tensor(gradient)
                     for gradient in gradients]
        self._make_sums(gradients, variables)
        sums = [None if gradient is None else self._sums[key_of(variable)]
                for gradient, variable in zip(gradients, variables)]
        for total, gradient in zip(sums, gradients):
            if total is not None:
                total.assign_add(gradient)

        def end_step():
            apply_step([None if total is None else
                        total / self._passes if self._is_average else tf.identity(total)
                        for total in sums])
            for total in filter(lambda one: one is not None, sums):
                total.assign(tf.zeros_like(total))
            return True

        tf.cond(self._count.assign_add(1) % self._passes == 0, end_step, lambda: False)

    def forget(self):
        """Begins anew."""
        if self._count is not None:
            self._count.assign(0)
        for total in self._sums.values():
            total.assign(tf.zeros_like(total))


class _KerasMixin(NotInsideLossScale):
    """Overrides of a Keras optimizer whose class it is mixed into; see DistributedOptimizer."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def forget_step(self):
        """Gives up what was accumulated for a step half-way."""
        if self._scalecom_accumulation is not None:
            self._scalecom_accumulation.forget()

    def apply(self, grads, trainable_variables=None):
        """As the optimizer's, with gradients that are reduced over all ranks."""
        grads = list(grads)
        variables = list(self._trainable_variables if trainable_variables is None
                         else trainable_variables)
        apply_own = super().apply

        reducer = self._scalecom

        def apply_step(gradients):
            if reducer.op == Adasum:
                reduce_step(lambda: apply_own(gradients, trainable_variables),
                            reducer.reduced_of(variables), reducer.compression, reducer.process_set)
            else:
                apply_own(reducer.reduce(gradients, variables), trainable_variables)

        if self._scalecom_accumulation is None:
            apply_step(grads)
        else:
            if not self.built:
                with tf.init_scope():
                    self.build(variables)
            self._scalecom_accumulation.add(grads, variables, apply_step)
        return self.iterations


class _V1Mixin:
    """The same of a tf.compat.v1.train.Optimizer."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def compute_gradients(self, *arguments, **named):
        """As the optimizer's, reduced over all ranks."""
        gradients, variables = zip(*super().compute_gradients(*arguments, **named))
        return list(zip(self._scalecom.reduce(gradients, variables), variables))


def _is_keras(optimizer):
    return callable(getattr(optimizer, "apply", None)) and hasattr(optimizer, "build")


def DistributedOptimizer(optimizer, name=None, use_locking=False, device_dense="",
                         device_sparse="", compression=Compression.none, sparse_as_dense=False,
                         backward_passes_per_step=1, op=Average, gradient_predivide_factor=1.0,
                         average_aggregated_gradients=False, num_groups=0, groups=None,
                         process_set=global_process_set, scale_local_gradients=True):
    """Wraps a Keras 3 optimizer, whose apply() then reduces the gradients first, or a
    tf.compat.v1.train.Optimizer, whose compute_gradients() reduces them afterwards.

    The result is an instance of the optimizer's class that shares its state. Files of a model with a
    Keras optimizer have this rank's residuals: load_weights() takes them up.
    backward_passes_per_step: as many calls of apply() add their gradients up, then one step is made
    with the sums, or with their averages where average_aggregated_gradients is True. The other
    arguments are those of DistributedGradientTape; name and use_locking are Horovod's. Do not reduce
    twice: use either a tape or an optimizer that is distributed.

    op Adasum, of Keras optimizers, reduces what steps do to the variables, and no gradients (arXiv
    2006.02924): apply() takes this rank's own step, and then every variable becomes what it was plus the
    Adasum of the ranks' changes. The optimizer's state is each rank's own; sparse_as_dense and groups have
    no effect; Compression.scalecom is refused.
    """
    if backward_passes_per_step < 1:
        raise ValueError(f"backward_passes_per_step is {backward_passes_per_step}; it must be 1 or "
                         "more")
    reducer = Reducer(compression, sparse_as_dense, op, gradient_predivide_factor, num_groups, groups,
                      process_set, scale_local_gradients,
                      more_ops=(Adasum,) if _is_keras(optimizer) else ())
    accumulation = None
    if _is_keras(optimizer):
        mixin = _KerasMixin
        if backward_passes_per_step > 1:
            accumulation = _Accumulation(backward_passes_per_step, average_aggregated_gradients)
    elif isinstance(optimizer, tf.compat.v1.train.Optimizer):
        mixin = _V1Mixin
        if backward_passes_per_step > 1:
            raise NotImplementedError("backward_passes_per_step needs a Keras optimizer; a "
                                      "tf.compat.v1.train.Optimizer takes 1")
    else:
        raise ValueError(f"optimizer is {type(optimizer).__name__}; allowed are Keras 3 optimizers and "
                         "tf.compat.v1.train.Optimizer")
    base = type(optimizer)
    # Saved models name the class: they are to find the optimizer's own.
    wrapped_class = type(base.__name__, (mixin, base), {"__module__": base.__module__})
    wrapped = object.__new__(wrapped_class)
    object.__setattr__(wrapped, "__dict__", optimizer.__dict__)
    optimizer.__dict__.update(_scalecom=reducer, _scalecom_accumulation=accumulation)
    if mixin is _KerasMixin:
        optimizer.__dict__["scalecom_residuals"] = SavedResiduals(wrapped, reducer)
    return wrapped
