"""How the bytes of an all-reduce are reduced."""

import functools

import tensorflow as tf

from scalecom.scalecom_options import NoneCompressor, ScaleComOptions
from scalecom.scalecom_options import check_compression as _check


class _CastCompressor(NoneCompressor):
    """float32 and float64 travel as a shorter type."""

    wire_dtype = None

    @classmethod
    def compress(cls, tensor):
        is_wide = tensor.dtype in (tf.float32, tf.float64)
        return (tf.cast(tensor, cls.wire_dtype), tensor.dtype) if is_wide else (tensor, None)

    @staticmethod
    def decompress(tensor, context):
        return tensor if context is None else tf.cast(tensor, context)


class FP16Compressor(_CastCompressor):
    """float32 and float64 travel as float16."""

    wire_dtype = tf.float16


class BF16Compressor(_CastCompressor):
    """float32 and float64 travel as bfloat16."""

    wire_dtype = tf.bfloat16


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def options_for(self, name, shape):
        rate, _ = self.choice_for(name, len(shape), shape.num_elements() or 0)
        return None if rate is None else self.options(rate)


check_compression = functools.partial(_check, casts="Compression.fp16, Compression.bf16")


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor
    scalecom = ScaleComCompressor
