"""Served by scalecom."""

from scalecom.torch.compression import BF16Compressor, Compression, FP16Compressor, NoneCompressor

Compressor = NoneCompressor  # What compressors of one's own derive from.

__all__ = ["BF16Compressor", "Compression", "Compressor", "FP16Compressor", "NoneCompressor"]
