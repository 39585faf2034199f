"""The reduction of a step's gradients: what tapes and optimizers share."""

import tensorflow as tf

from scalecom.compression import gradient_options
from scalecom.reducer import GradientReducer
from scalecom.tensorflow import mpi_ops, operations
from scalecom.tensorflow.operations import describe_reduction


class Reducer(GradientReducer):
    """How gradients are reduced; see DistributedGradientTape for the arguments."""

    def _reduce_all(self, gradients, names, op, prescale_factor, postscale_factor):
        """One submit for the dense ones, however many they are, and an all-gather for the IndexedSlices,
        without the factors."""
        compression = self.compression

        def reduce_dense(places):
            wires, contexts = zip(*(compression.compress(gradients[place]) for place in places))
            reductions = [describe_reduction(op, prescale_factor, postscale_factor,
                                             gradient_options(compression, names[place], gradients[place]))
                          for place in places]
            results = operations.all_reduce(
                list(wires), operations.Names("allreduce.", [names[place] for place in places]),
                self.process_set, reductions)
            return map(compression.decompress, results, contexts)

        return mpi_ops.reduce_mixed(gradients, names, op, 1.0, self.process_set, reduce_dense)

    def _prepare(self, gradient, variable):
        if isinstance(gradient, tf.IndexedSlices):
            if not self._sparse_as_dense:
                return gradient
            gradient = tf.convert_to_tensor(gradient)
        # What is compressed goes by the shape.
        return gradient if gradient.shape.is_fully_defined() else tf.ensure_shape(gradient, variable.shape)

    def _claim(self, name, gradient, variable):
        if not isinstance(gradient, tf.IndexedSlices):
            super()._claim(name, gradient, variable)

    def _divide_by_size(self, gradient):
        size = operations.size_when_run(self.process_set, gradient.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(gradient.values / size, gradient.indices, gradient.dense_shape)
        return gradient / size
