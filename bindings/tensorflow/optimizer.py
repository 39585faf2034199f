"""DistributedOptimizer: an optimizer whose gradients are reduced over all ranks before each step."""

import tensorflow as tf

from scalecom.accumulation import check_again, check_passes
from scalecom.keras_optimizer import distribute
from scalecom.process_sets import global_process_set
from scalecom.reductions import Adasum, Average, Sum
from scalecom.tensorflow import legacy
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.graph_accumulation import GraphAccumulation
from scalecom.tensorflow.reducer import Reducer


class _V1Mixin:
    """The same of a tf.compat.v1.train.Optimizer."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def compute_gradients(self, *arguments, **named):
        """As the optimizer's, reduced over all ranks; with op Adasum this rank's own. With several backward
        passes per step, in those before its last, the sums of this rank's so far."""
        gradients, variables = zip(*super().compute_gradients(*arguments, **named))
        reducer, accumulation = self._scalecom, self._scalecom_accumulation
        reduce = reducer.scale_local if reducer.op == Adasum else reducer.reduce
        reduced = reduce(gradients, variables) if accumulation is None else accumulation.add(
            gradients, variables, reduce)
        return list(zip(reduced, variables))

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """As the optimizer's; with op Adasum each variable becomes what it was plus the Adasum of the ranks'
        changes. With several backward passes per step, in those before its last only global_step is counted."""
        pairs, accumulation = list(grads_and_vars), self._scalecom_accumulation
        if accumulation is None:
            return self._take_step(pairs, global_step, name)
        return accumulation.end_pass(pairs, lambda: self._take_step(pairs, global_step), global_step, name)

    def _take_step(self, pairs, global_step, name=None):
        reducer, apply_own = self._scalecom, super().apply_gradients
        if reducer.op != Adasum:
            return apply_own(pairs, global_step, name)
        shared = reducer.reduced_of(variable for gradient, variable in pairs if gradient is not None)
        # A reading may be the variable's memory.
        starts = [tf.raw_ops.DeepCopy(x=variable.read_value()) for variable in shared]
        with tf.control_dependencies(starts):
            applied = apply_own(pairs, global_step)
        with tf.control_dependencies([] if tf.executing_eagerly() else [applied]):
            changes = reducer.reduce_changes(
                [variable.read_value() - start for variable, start in zip(shared, starts)], shared)
            return tf.group(*(variable.assign(start + change)
                              for variable, start, change in zip(shared, starts, changes)), name=name)


def DistributedOptimizer(optimizer, name=None, use_locking=False, device_dense="",
                         device_sparse="", compression=Compression.none, sparse_as_dense=False,
                         backward_passes_per_step=1, op=Average, gradient_predivide_factor=1.0,
                         average_aggregated_gradients=False, num_groups=0, groups=None,
                         process_set=global_process_set, scale_local_gradients=True):
    """Makes a Keras 3 optimizer reduce the gradients in apply(), one of the legacy tf-keras in
    apply_gradients(), or a tf.compat.v1.train.Optimizer in compute_gradients(), and returns it.

    It stays an instance of its class, with its state. Files of a model with a Keras 3 optimizer have this
    rank's residuals: load_weights() takes them up.
    backward_passes_per_step: as many calls of apply() add their gradients up, then one step is made
    with the sums, or with their averages where average_aggregated_gradients is True. Of v1, as many runs of
    what apply_gradients() returned, in a graph of tf.compat.v1 alone; the sums are local variables, global_step
    counts each run, and tf.IndexedSlices need sparse_as_dense. The other
    arguments are those of DistributedGradientTape; name and use_locking are Horovod's. Do not reduce
    twice: use either a tape or an optimizer that is distributed.

    op Adasum reduces what steps do to the variables, and no gradients (arXiv 2006.02924): apply(), of v1
    apply_gradients(), takes this rank's own step, and then every variable becomes what it was plus the
    Adasum of the ranks' changes, of Keras within its constraint. The optimizer's state is each rank's own;
    sparse_as_dense and groups have no effect; Compression.scalecom and use_ema are refused.

    An optimizer that is distributed already stays as it is where the settings are the same, but for groups, and
    is refused with others.
    """
    is_legacy = legacy.is_legacy(optimizer)
    is_keras = is_legacy or not isinstance(optimizer, type) and callable(
        getattr(optimizer, "apply", None)) and hasattr(optimizer, "build")
    reducer = Reducer(compression, op, gradient_predivide_factor,
                      num_groups if groups is None else groups, process_set, scale_local_gradients,
                      sparse_as_dense, (Average, Sum, Adasum))
    if is_keras:
        return (legacy.distribute if is_legacy else distribute)(
            optimizer, reducer, backward_passes_per_step, average_aggregated_gradients)
    if not isinstance(optimizer, tf.compat.v1.train.Optimizer):
        raise ValueError(f"optimizer is {optimizer!r}; allowed are Keras 3 optimizers, those of "
                         "tf-keras and tf.compat.v1.train.Optimizer")
    if isinstance(optimizer, _V1Mixin):
        check_again(optimizer, reducer, backward_passes_per_step, average_aggregated_gradients)
        return optimizer
    check_passes(optimizer, backward_passes_per_step)
    kind = type(optimizer)
    optimizer.__class__ = type(kind.__name__, (_V1Mixin, kind), {"__module__": kind.__module__})
    optimizer._scalecom = reducer
    optimizer._scalecom_accumulation = GraphAccumulation(
        backward_passes_per_step, average_aggregated_gradients,
        sparse_as_dense) if backward_passes_per_step > 1 else None
    return optimizer
