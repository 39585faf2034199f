"""How the bytes of an all-reduce are reduced."""

import tensorflow as tf

from scalecom.scalecom_options import (CastCompressor, NoneCompressor, ScaleComOptions,
                                       check_compression)


class _CastCompressor(CastCompressor):
    wide = (tf.float32, tf.float64)
    cast = staticmethod(tf.cast)


class FP16Compressor(_CastCompressor):
    """float32 and float64 travel as float16."""

    wire_dtype = tf.float16


class BF16Compressor(_CastCompressor):
    """float32 and float64 travel as bfloat16."""

    wire_dtype = tf.bfloat16


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def options_for(self, name, shape):
        return self.options_by_size(name, len(shape), shape.num_elements() or 0)


__all__ = ["BF16Compressor", "Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor",
           "check_compression"]


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor
    scalecom = ScaleComCompressor
