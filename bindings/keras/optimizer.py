"""DistributedOptimizer: a Keras optimizer whose gradients are reduced over all ranks before each step."""

import keras

from scalecom import basics
from scalecom.keras import backend
from scalecom.loss_scale import NotInsideLossScale
from scalecom.process_sets import global_process_set
from scalecom.saved_residuals import SavedResiduals
from scalecom.scalecom_options import ScaleComOptions
from scalecom.variables import check_groups, key_of, names_of


class _Reducer:
    """How gradients are reduced; see DistributedOptimizer."""

    def __init__(self, compression, op, predivide_factor, process_set, scale_local_gradients):
        self.compression = compression
        self.op = op
        self.process_set = process_set
        self._scale_local_gradients = scale_local_gradients
        self._local = set()
        self._predivide_factor = float(predivide_factor)
        self._has_checked = not isinstance(compression, ScaleComOptions)

    def register_local_var(self, variable):
        self._local.add(key_of(variable))

    def reduce(self, gradients, variables):
        """The reduced gradients. None stays None: it is None on all ranks. Those of local variables are
        scaled as an average has them of which one rank alone has the variable."""
        names = names_of(variables)
        if not self._has_checked:
            self.compression.check_patterns(names)
            self._has_checked = True
        local = [key_of(variable) in self._local for variable in variables]
        places = [place for place, gradient in enumerate(gradients)
                  if gradient is not None and not local[place]]
        reduced = backend.reduce([gradients[place] for place in places],
                                 [names[place] for place in places], self.op,
                                 1.0 / self._predivide_factor, self._predivide_factor,
                                 self.compression, self.process_set)
        factor = 1.0 / self._size() if self._scale_local_gradients else 1.0
        gradients = [gradient * factor if own and gradient is not None else gradient
                     for gradient, own in zip(gradients, local)]
        for place, gradient in zip(places, reduced):
            gradients[place] = gradient
        return gradients

    def _size(self):
        return basics.size() if self.process_set is global_process_set else self.process_set.size()


class _Mixin(NotInsideLossScale):
    """Overrides of an optimizer whose class it is mixed into."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def forget_step(self):
        """Gives up a step half-way, whose session is over."""

    def apply(self, grads, trainable_variables=None):
        """As the optimizer's, with gradients that are reduced over all ranks."""
        grads = list(grads)
        if not grads:
            return super().apply(grads, trainable_variables)
        variables = list(self._trainable_variables if trainable_variables is None
                         else trainable_variables)
        return super().apply(self._scalecom.reduce(grads, variables), trainable_variables)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As the optimizer's. Others come to apply() from there, a LossScaleOptimizer does not."""
        if isinstance(self, keras.optimizers.LossScaleOptimizer):
            grads = self._scalecom.reduce(list(grads), self._trainable_variables)
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)


def _exported_class(kind):
    """The first of a class's bases that Keras finds by its name when it loads a model: the torch back
    end's own ones stand for others."""
    for base in kind.__mro__:
        if getattr(keras.optimizers, base.__name__, None) is base:
            return base
    return kind


def DistributedOptimizer(optimizer, name=None, device_dense="", device_sparse="", compression=None,
                         sparse_as_dense=False, gradient_predivide_factor=1.0, op=None, num_groups=0,
                         groups=None, process_set=global_process_set, scale_local_gradients=True):
    """Makes `optimizer`, of Keras 3, reduce the gradients over all ranks in apply(), and returns it.

    It stays an instance of its class, with the same state and config: models with it are saved as if
    it were the plain one, and hvd.load_model() makes it distributed again. compression:
    hvd.Compression.none (default), fp16, bf16 or scalecom(...), which chooses by the variable's path, as
    "sequential/dense/kernel"; files of the model have this rank's residuals, which load_weights() and
    hvd.load_model() take up. op: Average
    (default) or Sum. gradient_predivide_factor: an average divides by it before the sum and by the rest
    after. process_set: the ranks that are to be reduced over, all of which are in it; not on the JAX back end.
    register_local_var(variable): its gradient stays this rank's own, divided by the number of ranks unless
    scale_local_gradients is False. groups and num_groups are checked only: all is submitted at once anyway.
    The other arguments are Horovod's.
    """
    del name, device_dense, device_sparse, sparse_as_dense
    adapter = backend.adapter
    compression = adapter.Compression.none if compression is None else compression
    op = adapter.Average if op is None else op
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer is {type(optimizer).__name__}; a keras.optimizers.Optimizer is "
                         "needed")
    if isinstance(optimizer, _Mixin):
        raise ValueError("optimizer is distributed already")
    if op not in (adapter.Average, adapter.Sum):
        raise ValueError(f"op is {op!r}; gradients are reduced by Average or Sum")
    if gradient_predivide_factor != 1.0 and op != adapter.Average:
        raise ValueError("gradient_predivide_factor needs op=Average")
    adapter.compression.check_compression(compression)
    check_groups(num_groups if groups is None else groups)
    backend.check_process_set(process_set)
    kind = type(optimizer)
    exported = _exported_class(kind)
    # A saved model names the class and its module: they are to lead to the optimizer's own.
    optimizer.__class__ = type(exported.__name__, (_Mixin, kind), {"__module__": exported.__module__})
    reducer = _Reducer(compression, op, gradient_predivide_factor, process_set, scale_local_gradients)
    optimizer.__dict__.update(_scalecom=reducer,
                              scalecom_residuals=SavedResiduals(optimizer, reducer))
    return optimizer
