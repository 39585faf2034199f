"""How the bytes of an all-reduce are reduced."""

import torch

from scalecom.scalecom_options import NoneCompressor, ScaleComOptions, check_compression


class FP16Compressor(NoneCompressor):
    """Floating-point tensors travel as float16."""

    @staticmethod
    def compress(tensor):
        is_wide = tensor.dtype in (torch.float32, torch.float64)
        return (tensor.to(torch.float16), tensor.dtype) if is_wide else (tensor, None)

    @staticmethod
    def decompress(tensor, context):
        return tensor if context is None else tensor.to(context)


class ScaleComCompressor(ScaleComOptions, NoneCompressor):
    __doc__ = ScaleComOptions.__doc__

    def choice_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter, None for dense; and why, in words."""
        return self.choice_for(name, parameter.dim(), parameter.numel())

    def rate_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter; None is dense."""
        return self.choice_of(name, parameter)[0]

    def options_for(self, name, parameter):
        rate = self.rate_of(name, parameter)
        return None if rate is None else self.options(rate)


__all__ = ["Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor", "check_compression"]


class Compression:
    """The choices for `compression=`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    scalecom = ScaleComCompressor
