"""How the bytes of an all-reduce are reduced."""

import torch

from scalecom.scalecom_options import (NoneCompressor, ScaleComOptions, check_compression,
                                       choices_of)


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


Compression = choices_of(torch, torch.Tensor.to, ScaleComCompressor)
FP16Compressor, BF16Compressor = Compression.fp16, Compression.bf16

__all__ = ["BF16Compressor", "Compression", "FP16Compressor", "NoneCompressor", "ScaleComCompressor",
           "check_compression"]
