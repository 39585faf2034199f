"""The reduction of a step's gradients: what tapes and optimizers share."""

import tensorflow as tf

from scalecom.process_sets import global_process_set
from scalecom.scalecom_options import ScaleComOptions
from scalecom.tensorflow import mpi_ops, operations
from scalecom.tensorflow.compression import check_compression
from scalecom.tensorflow.mpi_ops import Adasum, Average, Sum
from scalecom.tensorflow.operations import describe_reduction
from scalecom.variables import check_groups, key_of, names_of


def reduce_all(gradients, names, op, prescale_factor, postscale_factor, compression,
               process_set=global_process_set):
    """The reduced gradients, in their order: one submit for the dense ones, however many they are, and
    an all-gather for the IndexedSlices, without the factors."""
    reduced = list(gradients)
    sparse = [place for place, gradient in enumerate(gradients)
              if isinstance(gradient, tf.IndexedSlices)]
    dense = [place for place in range(len(gradients)) if place not in set(sparse)]
    if dense:
        wires, contexts = zip(*(compression.compress(gradients[place]) for place in dense))
        reductions = [describe_reduction(op, prescale_factor, postscale_factor,
                                         compression.options_for(names[place],
                                                                 gradients[place].shape))
                      for place in dense]
        results = operations.all_reduce(
            list(wires), operations.Names("allreduce.", [names[place] for place in dense]),
            process_set, reductions)
        for place, one, context in zip(dense, results, contexts):
            reduced[place] = compression.decompress(one, context)
    if sparse:
        results = mpi_ops.reduce_slices([gradients[place] for place in sparse],
                                        [names[place] for place in sparse], op, 1.0, process_set)
        for place, one in zip(sparse, results):
            reduced[place] = one
    return reduced


class Reducer:
    """How gradients are reduced; see DistributedGradientTape for the arguments."""

    def __init__(self, compression, sparse_as_dense, op, gradient_predivide_factor, num_groups,
                 groups, process_set, scale_local_gradients, more_ops=()):
        check_compression(compression)
        if op not in (Average, Sum, *more_ops):
            raise ValueError(f"op is {op!r}; gradients are reduced by Average or Sum")
        if op == Adasum and isinstance(compression, ScaleComOptions):
            raise ValueError("compression is Compression.scalecom; it works with op Average and Sum, not "
                             "with Adasum, which needs every element")
        if gradient_predivide_factor != 1.0 and op != Average:
            raise ValueError("gradient_predivide_factor needs op=Average")
        check_groups(num_groups if groups is None else groups)
        self.compression = compression
        self._sparse_as_dense = sparse_as_dense
        self.op = op
        self._predivide_factor = float(gradient_predivide_factor)
        self.process_set = process_set
        self._scale_local_gradients = scale_local_gradients
        self._local = set()

    def register_local_var(self, variable):
        self._local.add(key_of(variable))

    def reduced_of(self, variables):
        """Those whose gradients are not this rank's own."""
        return [variable for variable in variables if key_of(variable) not in self._local]

    def reduce(self, gradients, variables):
        """The reduced gradients, in their order; see reduce_all. None stays None: it is None on all
        ranks. ValueError where a pattern of rates matches none of the variables."""
        gradients, names = list(gradients), names_of(variables)
        if isinstance(self.compression, ScaleComOptions):
            self.compression.check_patterns(names)
        places = []
        for place, (gradient, variable) in enumerate(zip(gradients, variables)):
            if gradient is None:
                continue
            if key_of(variable) in self._local:
                gradients[place] = self._scale_local(gradient)
                continue
            if isinstance(gradient, tf.IndexedSlices) and self._sparse_as_dense:
                gradients[place] = tf.convert_to_tensor(gradient)
            elif not isinstance(gradient, tf.IndexedSlices) and not gradient.shape.is_fully_defined():
                gradients[place] = tf.ensure_shape(gradient, variable.shape)  # What is compressed goes by it.
            places.append(place)
        # An average cancels the factors, which only dense gradients see.
        reduced = reduce_all([gradients[place] for place in places],
                             [names[place] for place in places], self.op,
                             1.0 / self._predivide_factor, self._predivide_factor,
                             self.compression, self.process_set)
        for place, one in zip(places, reduced):
            gradients[place] = one
        return gradients

    def _scale_local(self, gradient):
        """As an average over the ranks has it, of which one alone has this variable."""
        if not self._scale_local_gradients:
            return gradient
        size = operations.size_when_run(self.process_set, gradient.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(gradient.values / size, gradient.indices, gradient.dense_shape)
        return gradient / size
