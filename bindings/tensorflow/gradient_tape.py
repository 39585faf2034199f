"""DistributedGradientTape: a tf.GradientTape whose gradients are reduced over all ranks."""

import tensorflow as tf

from scalecom.process_sets import global_process_set
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.mpi_ops import Average
from scalecom.tensorflow.reducer import Reducer


class _DistributedTape(tf.GradientTape):
    """See DistributedGradientTape."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def gradient(self, target, sources, output_gradients=None, use_local_sources=False,
                 **arguments):
        """As of tf.GradientTape, reduced over all ranks; use_local_sources: as they are."""
        gradients = super().gradient(target, sources, output_gradients, **arguments)
        if use_local_sources:
            return gradients
        flat = self._scalecom.reduce(tf.nest.flatten(gradients), tf.nest.flatten(sources))
        return tf.nest.pack_sequence_as(sources, flat)


def DistributedGradientTape(gradtape, device_dense="", device_sparse="",
                            compression=Compression.none, sparse_as_dense=False, op=Average,
                            gradient_predivide_factor=1.0, num_groups=0, groups=None,
                            process_set=global_process_set, scale_local_gradients=True):
    """Wraps a tf.GradientTape: gradient() gives gradients that are reduced over all ranks.

    All gradients of a call are one submit: they are negotiated at once and fused. They are known by
    their sources' names (path of a Keras variable, name of a tf.Variable), which are the same on all
    ranks and key the residuals of Compression.scalecom(...), where rates go by these names. op:
    Average or Sum. gradient_predivide_factor f: gradients are divided by f before the sum and
    multiplied by f after the average. tf.IndexedSlices stay so and travel uncompressed by all-gathers,
    unless sparse_as_dense is True. A gradient that is None stays None, on all ranks alike. groups and
    num_groups are Horovod's, and are checked only. register_local_var(variable): its gradient stays
    this rank's own, divided by the number of ranks unless scale_local_gradients is False.
    device_dense and device_sparse are Horovod's; the operations are the CPU's.
    """
    wrapped = _DistributedTape.__new__(_DistributedTape)
    wrapped.__dict__ = gradtape.__dict__
    wrapped._scalecom = Reducer(compression, op, gradient_predivide_factor,
                                num_groups if groups is None else groups, process_set,
                                scale_local_gradients, sparse_as_dense)
    return wrapped


def PartialDistributedGradientTape(gradtape, device_dense="", device_sparse="",
                                   compression=Compression.none, sparse_as_dense=False, op=Average,
                                   gradient_predivide_factor=1.0, num_groups=0, groups=None,
                                   process_set=global_process_set, local_layers=None,
                                   scale_local_gradients=True):
    """As DistributedGradientTape; the gradients of the layers `local_layers`, one or a list, stay this
    rank's own."""
    tape = DistributedGradientTape(gradtape, device_dense, device_sparse, compression,
                                   sparse_as_dense, op, gradient_predivide_factor, num_groups,
                                   groups, process_set, scale_local_gradients)
    layers = [] if local_layers is None else tf.nest.flatten(local_layers)
    for layer in layers:
        for variable in layer.trainable_weights:
            tape.register_local_var(variable)
    return tape
