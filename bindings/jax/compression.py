"""How the bytes of an all-reduce are reduced."""

import jax.numpy as jnp

from scalecom.compression import NoneCompressor, ScaleComCompressor, choices_of

Compression = choices_of(__name__, jnp, jnp.astype)
FP16Compressor, BF16Compressor = Compression.fp16, Compression.bf16

__all__ = ["BF16Compressor", "Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor"]
