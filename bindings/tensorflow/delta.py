"""DistributedOptimizer with op Adasum: what a step does to the variables is reduced, not gradients."""

import tensorflow as tf

from scalecom.tensorflow import operations
from scalecom.tensorflow.mpi_ops import Adasum
from scalecom.tensorflow.operations import describe_reduction
from scalecom.variables import names_of


def _value_of(variable):
    return tf.identity(tf.convert_to_tensor(variable))


def reduce_step(take_step, variables, compression, process_set):
    """Calls take_step(), which changes `variables` by this rank's gradients, and replaces each one's change by
    the Adasum of the ranks' changes (arXiv 2006.02924). Eagerly or in a tf.function."""
    starts = [_value_of(variable) for variable in variables]
    take_step()
    deltas, contexts = zip(*(compression.compress(_value_of(variable) - start)
                             for variable, start in zip(variables, starts)))
    reduced = operations.all_reduce(list(deltas), operations.Names("allreduce.", names_of(variables)),
                                    process_set, [describe_reduction(Adasum)])
    for variable, start, delta, context in zip(variables, starts, reduced, contexts):
        variable.assign(start + compression.decompress(delta, context))
