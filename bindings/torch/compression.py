"""How the bytes of an all-reduce are reduced."""

import torch

from scalecom.scalecom_options import (CastCompressor, NoneCompressor, ScaleComOptions,
                                       check_compression)


class _CastCompressor(CastCompressor):
    wide = (torch.float32, torch.float64)
    cast = staticmethod(torch.Tensor.to)


class FP16Compressor(_CastCompressor):
    """float32 and float64 travel as float16."""

    wire_dtype = torch.float16


class BF16Compressor(_CastCompressor):
    """float32 and float64 travel as bfloat16."""

    wire_dtype = torch.bfloat16


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def choice_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter, None for dense; and why, in words."""
        return self.choice_for(name, parameter.dim(), parameter.numel())

    def rate_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter; None is dense."""
        return self.choice_of(name, parameter)[0]

    def options_for(self, name, parameter):
        return self.options_by_size(name, parameter.dim(), parameter.numel())


__all__ = ["BF16Compressor", "Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor",
           "check_compression"]


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor
    scalecom = ScaleComCompressor
