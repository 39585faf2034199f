"""How the bytes of an all-reduce are reduced: the choices for `compression=` of every adapter."""

import fnmatch
import math
import numbers
import types

from scalecom._library import DTYPES, CompressionOptions
from scalecom.rates import MODES, check_choice, check_patterns, checked_rate, checked_rates, is_whole

VALUES = ("float32", "float16", "bfloat16")

MIN_ELEMENTS = 1024


class NoneCompressor:
    """Every element travels as it is."""

    @staticmethod
    def compress(tensor):
        """Returns what travels, and what decompress() needs."""
        return tensor, None

    @staticmethod
    def decompress(tensor, ctx):
        return tensor


class ScaleComCompressor(NoneCompressor):
    """ScaleCom: of every `rate` elements one travels, the same on all ranks; the rest stays in this
    rank's residual and travels later (Chen et al., NeurIPS 2020, arXiv 2104.11125).

    rate: elements in a chunk, 1 to 65,536.
    beta: discount of the residual's low-pass filter, in (0, 1]; 1 is classical error feedback.
    warmup_steps: steps of a tensor that go dense at first.
    ramp_steps: steps after them in which the rate rises to what it is to be, from 4 to 7 on, doubling
    after equal numbers of steps.
    mode: "cyclic", rank (step mod size) selects; "sharded", every rank selects for one shard, which
    changes with the step; "hierarchical", the same on the average over the ranks of a host, so that
    hosts are the workers; "auto", sharded or dense, whichever finishes earlier by what was measured at
    init, for CUDA tensors with the first of them, which are dense (scalecom-info --plan and, in
    scalecom.torch, compression_plan() tell); None, what SCALECOM_MODE says.
    values: what travels is "float32", "float16" or "bfloat16"; what rounding takes away stays in the
    residual.
    guard: largest d/k, above 0 and at most 1, that a sampled step may show (hvd.compression_stats());
    past it the tensor's chunks are halved, down to 1, where every element travels. None: no guard.

    In DistributedOptimizer, one-dimensional parameters and those of fewer than `min_elements` stay
    dense. `rates` overrides rate and that rule by parameter name: {"fc*.weight": 400, "conv1.*": None,
    "words.*": {"rate": 50, "mode": "cyclic"}}; patterns as in fnmatch, the first that matches counts,
    None is dense, a rate alone goes by `mode`. It may be the path of a JSON file with such an object;
    flops_rates() and budget_rates() of scalecom.torch make one.

    It cannot be changed; assign a new one to what has it, as optimizer.compression, between two steps.
    """

    def __init__(self, rate=100, beta=1.0, warmup_steps=0, mode=None, rates=None,
                 min_elements=MIN_ELEMENTS, values="float32", guard=None, ramp_steps=0):
        check_choice("mode", mode, MODES)
        check_choice("values", values, VALUES)
        if not isinstance(beta, numbers.Real) or not 0.0 < beta <= 1.0:
            raise ValueError(f"beta is {beta!r}; it must be above 0 and at most 1")
        for steps_name, steps in (("warmup_steps", warmup_steps), ("ramp_steps", ramp_steps)):
            if not is_whole(steps) or not 0 <= steps < 2**31:
                raise ValueError(f"{steps_name} is {steps!r}; allowed are whole numbers from 0 to "
                                 f"{2**31 - 1}")
        if guard is not None and not (isinstance(guard, numbers.Real) and 0.0 < guard <= 1.0):
            raise ValueError(f"guard is {guard!r}; it must be above 0 and at most 1, or None")
        if not is_whole(min_elements) or min_elements < 0:
            raise ValueError(f"min_elements is {min_elements!r}; allowed are whole numbers of 0 or more")
        self.__dict__.update(
            rate=checked_rate(rate), beta=float(beta), warmup_steps=int(warmup_steps),
            ramp_steps=int(ramp_steps), mode=mode, values=values, guard=guard,
            min_elements=int(min_elements), rates=checked_rates(rates), _options={})

    def __setattr__(self, name, value):
        raise AttributeError(
            f"{name} of Compression.scalecom(...) cannot be changed, because steps may be under way with it; assign "
            f"a new one to what has it: optimizer.compression = hvd.Compression.scalecom({name}={value!r}, ...)")

    @property
    def rates(self):
        """By pattern, to read."""
        return types.MappingProxyType({pattern: types.MappingProxyType(way) if isinstance(way, dict) else way
                                       for pattern, way in self.__dict__["rates"].items()})

    def options(self, rate=None, mode=None):
        """The C options for one tensor, made once for each rate and mode. None: as asked for in general."""
        way = self.rate if rate is None else rate, self.mode if mode is None else mode
        if way not in self._options:
            self._options[way] = CompressionOptions(MODES[way[1]], way[0], self.beta,
                                                    self.warmup_steps, DTYPES[self.values],
                                                    self.guard or 0.0, self.ramp_steps)
        return self._options[way]

    def _way_for(self, name, shape):
        """(rate, None for dense; mode, None as in general; why, in words) for a parameter's gradient."""
        for pattern, way in self.__dict__["rates"].items():
            if fnmatch.fnmatchcase(name, pattern):
                of_pattern = way if isinstance(way, dict) else {"rate": way, "mode": None}
                return of_pattern["rate"], of_pattern["mode"], f"rates says so for {pattern!r}"
        if len(shape) < 2:
            return None, None, f"it has {len(shape)} dimension{'' if len(shape) == 1 else 's'}, fewer than 2"
        # TensorFlow may not know an extent; of what it is, nobody knows whether it is large.
        if math.prod(int(extent or 0) for extent in shape) < self.min_elements:
            return None, None, f"it has fewer than {self.min_elements} elements"
        return self.rate, None, "rate says so" + (", as no pattern matches" if self.__dict__["rates"] else "")

    def choice_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter, which has a shape, None for dense; and why, in
        words."""
        rate, _, reason = self._way_for(name, parameter.shape)
        return rate, reason

    def rate_of(self, name, parameter):
        """The rate DistributedOptimizer uses for a parameter; None is dense."""
        return self.choice_of(name, parameter)[0]

    def options_for(self, name, parameter):
        """The C options for the gradient of a parameter, None for dense."""
        rate, mode, _ = self._way_for(name, parameter.shape)
        return None if rate is None else self.options(rate, mode)

    def check_patterns(self, names):
        """Raises ValueError for a pattern of `rates` that matches no parameter."""
        check_patterns(self.rates, names)

    def __repr__(self):
        return (f"Compression.scalecom(rate={self.rate}, beta={self.beta}, "
                f"warmup_steps={self.warmup_steps}, ramp_steps={self.ramp_steps}, "
                f"mode={self.mode!r}, values={self.values!r}, rates={self.__dict__['rates']}, "
                f"guard={self.guard})")


class CastCompressor(NoneCompressor):
    """Tensors of the dtypes `wide` travel as `wire_dtype`, by the adapter's cast(tensor, dtype)."""

    wide = ()
    wire_dtype = None
    cast = None

    @classmethod
    def compress(cls, tensor):
        is_wide = tensor.dtype in cls.wide
        return (cls.cast(tensor, cls.wire_dtype), tensor.dtype) if is_wide else (tensor, None)

    @classmethod
    def decompress(cls, tensor, ctx):
        return tensor if ctx is None else cls.cast(tensor, ctx)


def choices_of(module, framework, cast):
    """An adapter's Compression. module: the name of where it is. framework: its module, which has the dtypes.
    cast(tensor, dtype)."""

    def casting(name, dtype):
        return type(f"{name}Compressor", (CastCompressor,), {
            "__doc__": f"float32 and float64 travel as {dtype}.", "__module__": module,
            "cast": staticmethod(cast), "wide": (framework.float32, framework.float64),
            "wire_dtype": getattr(framework, dtype)})

    return type("Compression", (), {
        "__doc__": "The choices for `compression=`.", "__module__": module,
        "none": NoneCompressor, "fp16": casting("FP16", "float16"), "bf16": casting("BF16", "bfloat16"),
        "scalecom": ScaleComCompressor})


def check_compression(compression):
    """Raises ValueError for what `compression=` does not take."""
    if compression is NoneCompressor:
        return
    has_both = all(callable(getattr(compression, name, None)) for name in ("compress", "decompress"))
    if not has_both or isinstance(compression, type) and issubclass(compression, ScaleComCompressor):
        raise ValueError(f"compression is {compression!r}; allowed are Compression.none, "
                         "Compression.fp16, Compression.bf16, Compression.scalecom(...), with its "
                         "parentheses, and what has compress(tensor) and decompress(tensor, ctx)")


def gradient_options(compression, name, parameter):
    """The C options of a checked compression for a parameter's gradient, or None. parameter: what has its
    shape."""
    return compression.options_for(name, parameter) if isinstance(compression, ScaleComCompressor) else None


def check_uniform(compression):
    """Raises ValueError unless `compression` treats all elements alike, as all but all-reduces
    need it."""
    check_compression(compression)
    if isinstance(compression, ScaleComCompressor):
        raise ValueError("compression is Compression.scalecom; it works with allreduce only")


def options_of(compression, name, need):
    """C options of a compression for a call under a name, or None. need: who needs the name, and what
    for. ValueError for what is no compression, and for Compression.scalecom without a name."""
    check_compression(compression)
    if not isinstance(compression, ScaleComCompressor):
        return None
    if name is None:
        raise ValueError(f"name is None; with Compression.scalecom {need} kept under it from one "
                         "call to the next")
    return compression.options()
