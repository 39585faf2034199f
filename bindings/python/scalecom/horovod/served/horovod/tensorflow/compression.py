"""Served by scalecom."""

from scalecom.tensorflow.compression import Compression, FP16Compressor, NoneCompressor

Compressor = NoneCompressor  # What compressors of one's own derive from.

__all__ = ["Compression", "Compressor", "FP16Compressor", "NoneCompressor"]
