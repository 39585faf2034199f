"""How the bytes of an all-reduce are reduced."""

import math

import jax.numpy as jnp

from scalecom.scalecom_options import (NoneCompressor, ScaleComOptions, check_compression,
                                       choices_of)


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def options_for(self, name, shape):
        return self.options_by_size(name, len(shape), math.prod(shape))


Compression = choices_of(jnp, jnp.astype, ScaleComCompressor)
FP16Compressor, BF16Compressor = Compression.fp16, Compression.bf16

__all__ = ["BF16Compressor", "Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor",
           "check_compression"]
