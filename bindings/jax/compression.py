"""How the bytes of an all-reduce are reduced."""

import math

import jax.numpy as jnp

from scalecom.scalecom_options import ScaleComOptions


class NoneCompressor:
    """Every element travels as it is."""

    @staticmethod
    def compress(array):
        """Returns what travels, and what decompress() needs."""
        return array, None

    @staticmethod
    def decompress(array, context):
        return array

    @staticmethod
    def options_for(name, shape):
        """The C options for a parameter's gradient, or None."""
        return None


class FP16Compressor(NoneCompressor):
    """float32 and float64 travel as float16."""

    @staticmethod
    def compress(array):
        is_wide = array.dtype in (jnp.float32, jnp.float64)
        return (array.astype(jnp.float16), array.dtype) if is_wide else (array, None)

    @staticmethod
    def decompress(array, context):
        return array if context is None else array.astype(context)


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def options_for(self, name, shape):
        rate, _ = self.choice_for(name, len(shape), math.prod(shape))
        return None if rate is None else self.options(rate)


def check_compression(compression):
    """Raises ValueError for what `compression=` does not take."""
    is_class = isinstance(compression, type)
    is_allowed = (issubclass(compression, NoneCompressor) and
                  not issubclass(compression, ScaleComCompressor) if is_class
                  else isinstance(compression, NoneCompressor))
    if not is_allowed:
        raise ValueError(f"compression is {compression!r}; allowed are Compression.none, "
                         "Compression.fp16 and Compression.scalecom(...), with its parentheses")


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    scalecom = ScaleComCompressor
