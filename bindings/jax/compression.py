"""How the bytes of an all-reduce are reduced."""

import math

import jax.numpy as jnp

from scalecom.scalecom_options import NoneCompressor, ScaleComOptions, check_compression


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


__all__ = ["Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor", "check_compression"]


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    scalecom = ScaleComCompressor
