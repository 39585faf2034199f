"""DistributedOptimizer: a Keras optimizer whose gradients are reduced over all ranks before each step."""

import keras

from scalecom.keras import backend
from scalecom.keras_optimizer import distribute
from scalecom.process_sets import global_process_set
from scalecom.reductions import Adasum, Average, Sum


def DistributedOptimizer(optimizer, name=None, device_dense="", device_sparse="", compression=None,
                         sparse_as_dense=False, gradient_predivide_factor=1.0, op=None, num_groups=0,
                         groups=None, process_set=global_process_set, scale_local_gradients=True,
                         backward_passes_per_step=1, average_aggregated_gradients=False):
    """Makes `optimizer`, of Keras 3, reduce the gradients over all ranks in apply(), and returns it.

    It stays an instance of its class, with the same state and config: models with it are saved as if
    it were the plain one, and hvd.load_model() makes it distributed again. compression:
    hvd.Compression.none (default), fp16, bf16 or scalecom(...), which chooses by the variable's path, as
    "sequential/dense/kernel"; files of the model have this rank's residuals, which load_weights() and
    hvd.load_model() take up. op: Average
    (default), Sum or Adasum. gradient_predivide_factor: an average divides by it before the sum and by the rest
    after. process_set: the ranks that are reduced over; on a rank outside of it gradients stay as they are.
    register_local_var(variable): its gradient stays this rank's own, divided by the number of ranks unless
    scale_local_gradients is False. sparse_as_dense: tf.IndexedSlices are reduced as whole tensors.
    groups and num_groups are checked only: all is submitted at once anyway. The other arguments are Horovod's.

    backward_passes_per_step: the gradients of as many batches are added up on this rank, then reduced, and
    one step is made with the sums, or with their averages where average_aggregated_gradients is True.
    `iterations` counts steps. What was added up for a step half-way is not in files; load_weights(),
    broadcast_global_variables() and an elastic reset give it up. On JAX it is in optimizer.variables, where a
    step has it as arguments: do not copy these from rank to rank by other means. A graph of TensorFlow's makes
    its steps of the gradients that it or an earlier one has, as zeros where no batch had them.

    op Adasum reduces what steps do to the variables, and no gradients (arXiv 2006.02924): apply() takes this
    rank's own step, and then every variable becomes what it was plus the Adasum of the ranks' changes, within
    its constraint. The optimizer's state is each rank's own; Compression.scalecom and use_ema are refused.

    An optimizer that is distributed already stays as it is where the settings are the same, but for groups, and
    is refused with others.
    """
    del name, device_dense, device_sparse
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer is {type(optimizer).__name__}; a keras.optimizers.Optimizer is "
                         "needed")
    reducer = backend.Reducer(
        backend.adapter.Compression.none if compression is None else compression,
        Average if op is None else op, gradient_predivide_factor, num_groups if groups is None else groups,
        process_set, scale_local_gradients, sparse_as_dense, (Average, Sum, Adasum))
    return distribute(optimizer, reducer, backward_passes_per_step, average_aggregated_gradients)


def PartialDistributedOptimizer(optimizer, name=None, device_dense="", device_sparse="", compression=None,
                                sparse_as_dense=False, gradient_predivide_factor=1.0, op=None, groups=None,
                                process_set=global_process_set, local_layers=None, scale_local_gradients=True):
    """As DistributedOptimizer; the gradients of the layers `local_layers`, one or a list, stay this rank's own."""
    distributed = DistributedOptimizer(optimizer, name, device_dense, device_sparse, compression, sparse_as_dense,
                                       gradient_predivide_factor, op, 0, groups, process_set, scale_local_gradients)
    distributed._scalecom.register_local_layers(local_layers)
    return distributed
