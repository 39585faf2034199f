"""Batch normalization over the batches of all ranks."""

import keras
import tensorflow as tf

from scalecom.process_sets import global_process_set
from scalecom.reductions import Sum
from scalecom.tensorflow.mpi_ops import allreduce


@keras.saving.register_keras_serializable(package="scalecom")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization, whose mean and variance in training are those of the batches of all
    ranks together; differentiable through the exchange.

    Batches may differ in size between ranks and be empty; a mask counts as in Keras. All ranks call it
    in training in the same order: an all-reduce of channels + 1 numbers and one of channels numbers.
    Otherwise nothing is exchanged. process_set: the ranks that take part; it is not in the config.
    fused is Horovod's, and must be False.
    """

    def __init__(self, *arguments, process_set=global_process_set, fused=False, **named):
        if fused:
            raise ValueError(f"fused is {fused!r}; it must be False: the fused operation sees one rank's batch alone")
        super().__init__(*arguments, **named)
        self._process_set = process_set

    def _sum_over_ranks(self, values):
        return allreduce(values, op=Sum, process_set=self._process_set)

    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        channels = tf.shape(inputs)[self.axis]
        count = (tf.size(inputs) // tf.maximum(channels, 1) if mask is None else
                 tf.size(inputs) // tf.size(mask) // tf.maximum(channels, 1)
                 * tf.math.count_nonzero(mask, dtype=tf.int32))
        count = tf.cast(count, mean.dtype)
        # Of no values there is no mean.
        mean = tf.where(count > 0, mean, tf.zeros_like(mean))
        variance = tf.where(count > 0, variance, tf.zeros_like(variance))
        totals = self._sum_over_ranks(tf.concat([mean * count, [count]], 0))
        total = tf.maximum(totals[-1], 1)
        mean_of_all = totals[:-1] / total
        # From each rank's own variance: squares of the values would lose what is small beside the mean.
        spread = self._sum_over_ranks((variance + tf.square(mean - mean_of_all)) * count)
        return mean_of_all, spread / total
