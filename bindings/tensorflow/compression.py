"""How the bytes of an all-reduce are reduced."""

import tensorflow as tf

from scalecom.scalecom_options import ScaleComOptions


class NoneCompressor:
    """Every element travels as it is."""

    @staticmethod
    def compress(tensor):
        """Returns what travels, and what decompress() needs."""
        return tensor, None

    @staticmethod
    def decompress(tensor, context):
        return tensor

    @staticmethod
    def options_for(name, shape):
        """The C options for the gradient of a variable, or None."""
        return None


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


def check_compression(compression):
    """Raises ValueError for what `compression=` does not take."""
    is_class = isinstance(compression, type)
    is_allowed = (issubclass(compression, NoneCompressor) and
                  not issubclass(compression, ScaleComCompressor) if is_class
                  else isinstance(compression, NoneCompressor))
    if not is_allowed:
        raise ValueError(f"compression is {compression!r}; allowed are Compression.none, "
                         "Compression.fp16, Compression.bf16 and Compression.scalecom(...), with its "
                         "parentheses")


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor
    scalecom = ScaleComCompressor
