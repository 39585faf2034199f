"""How the bytes of an all-reduce are reduced."""

import fnmatch
import math
import numbers

import torch

from scalecom._library import CompressionOptions

_MODES = {"cyclic": 1, "sharded": 2, None: 3}
_VALUES = {"float32": 6, "float16": 5, "bfloat16": 9}
_RATE_MAX = 65536


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
    def options_for(name, parameter):
        """The C options for a parameter's gradient, or None."""
        return None


class FP16Compressor(NoneCompressor):
    """Floating-point tensors travel as float16."""

    @staticmethod
    def compress(tensor):
        is_wide = tensor.dtype in (torch.float32, torch.float64)
        return (tensor.to(torch.float16), tensor.dtype) if is_wide else (tensor, None)

    @staticmethod
    def decompress(tensor, context):
        return tensor if context is None else tensor.to(context)


class ScaleComCompressor(NoneCompressor):
    """ScaleCom: of every `rate` elements one travels, the same on all ranks; the rest stays in this
    rank's residual and travels later (Chen et al., NeurIPS 2020, arXiv 2104.11125).

    rate: elements in a chunk, 1 to 65,536. beta: discount of the residual's low-pass filter, in
    (0, 1]; 1 is classical error feedback. warmup_steps: steps of a tensor that go dense at first.
    mode: "cyclic", rank (step mod size) selects; "sharded", every rank selects for one shard, which
    changes with the step; None, what SCALECOM_MODE says. values: what travels is "float32",
    "float16" or "bfloat16"; what rounding takes away stays in the residual.

    In DistributedOptimizer, one-dimensional parameters and those of fewer than `min_elements` stay
    dense. `rates` overrides rate and that rule by parameter name: {"fc*.weight": 400,
    "conv1.*": None}; patterns as in fnmatch, the first that matches counts, None is dense.
    """

    def __init__(self, rate=100, beta=1.0, warmup_steps=0, mode=None, rates=None,
                 min_elements=1024, values="float32"):
        _check_choice("mode", mode, _MODES)
        _check_choice("values", values, _VALUES)
        if not isinstance(beta, numbers.Real) or not 0.0 < beta <= 1.0:
            raise ValueError(f"beta is {beta}; it must be above 0 and at most 1")
        if not _is_whole(warmup_steps) or warmup_steps < 0:
            raise ValueError(f"warmup_steps is {warmup_steps}; it must be a whole number of 0 or "
                             "more")
        self.rate = _checked_rate(rate)
        self.beta = float(beta)
        self.warmup_steps = int(warmup_steps)
        self.mode = mode
        self.values = values
        self.min_elements = min_elements
        self.rates = {pattern: None if value is None else _checked_rate(value)
                      for pattern, value in (rates or {}).items()}
        self._options = {}

    def options(self, rate=None):
        """The C options for one tensor, made once for each rate."""
        rate = self.rate if rate is None else rate
        if rate not in self._options:
            self._options[rate] = CompressionOptions(_MODES[self.mode], rate, self.beta,
                                                     self.warmup_steps, _VALUES[self.values])
        return self._options[rate]

    def rate_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter; None is dense."""
        for pattern, rate in self.rates.items():
            if fnmatch.fnmatchcase(name, pattern):
                return rate
        is_dense = parameter.dim() < 2 or parameter.numel() < self.min_elements
        return None if is_dense else self.rate

    def options_for(self, name, parameter):
        rate = self.rate_of(name, parameter)
        return None if rate is None else self.options(rate)

    def check_patterns(self, names):
        """Raises ValueError for a pattern of `rates` that matches no parameter."""
        for pattern in self.rates:
            if not fnmatch.filter(names, pattern):
                raise ValueError(f"the pattern {pattern!r} of rates matches no parameter; there "
                                 f"are {', '.join(names[:10])}"
                                 f"{', ...' if len(names) > 10 else ''}")

    def __repr__(self):
        return (f"Compression.scalecom(rate={self.rate}, beta={self.beta}, "
                f"warmup_steps={self.warmup_steps}, mode={self.mode!r}, values={self.values!r}, "
                f"rates={self.rates})")


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def _is_whole(value):
    return isinstance(value, numbers.Real) and math.isfinite(value) and value == int(value)


def _checked_rate(rate):
    if not _is_whole(rate) or not 1 <= rate <= _RATE_MAX:
        raise ValueError(f"rate is {rate}; allowed are whole numbers from 1 to {_RATE_MAX}")
    return int(rate)


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
