"""DistributedGradientTape: a tf.GradientTape whose gradients are reduced over all ranks."""

import tensorflow as tf

from scalecom.process_sets import global_process_set
from scalecom.reductions import Adasum, Average
from scalecom.tensorflow.compression import Compression
from scalecom.tensorflow.reducer import Reducer


class _DistributedTape(tf.GradientTape):
    """See DistributedGradientTape."""

    def register_local_var(self, var):
        """The gradient of this variable stays this rank's own."""
        self._scalecom.register_local_var(var)

    def register_local_source(self, source):
        """register_local_var() by Horovod's name."""
        self.register_local_var(source)

    def gradient(self, target, sources, output_gradients=None, use_generic_names=False, **arguments):
        """As of tf.GradientTape, reduced over all ranks. use_generic_names: gradients are known by their places
        among the sources, as grad_0, where the ranks give their variables other names."""
        gradients = tf.nest.flatten(super().gradient(target, sources, output_gradients, **arguments))
        names = [f"grad_{place}" for place in range(len(gradients))] if use_generic_names else None
        flat = self._scalecom.reduce(gradients, tf.nest.flatten(sources), names)
        return tf.nest.pack_sequence_as(sources, flat)

    def get_local_and_global_gradients(self, target, sources, output_gradients=None, use_generic_names=False):
        """gradient() as two lists of (source, gradient): those that are this rank's own, and the others."""
        gradients = self.gradient(target, sources, output_gradients, use_generic_names)
        shared = {id(source) for source in self._scalecom.reduced_of(sources)}
        pairs = list(zip(sources, gradients))
        return ([pair for pair in pairs if id(pair[0]) not in shared],
                [pair for pair in pairs if id(pair[0]) in shared])


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
    if not isinstance(gradtape, tf.GradientTape):
        raise ValueError(f"gradtape is {gradtape!r}; a tf.GradientTape is needed")
    if op == Adasum:
        raise ValueError("op is Adasum; a tape takes Average and Sum. DistributedOptimizer(..., op=hvd.Adasum) combines "
                         "the steps that the ranks take")
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
    tape._scalecom.register_local_layers(local_layers)
    return tape
