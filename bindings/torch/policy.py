"""How much to compress which parameter: rates by the paper's rule, or for a budget of bytes.

Both give rates by parameter name, None for dense, as Compression.scalecom(rates=...) takes them.
"""

import contextlib
import glob
import math
import numbers

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from scalecom import basics
from scalecom.compression import MIN_ELEMENTS, VALUES
from scalecom.rates import RATE_MAX, check_choice
from scalecom.torch.parameters import checked_pairs

# Chen et al., NeurIPS 2020: the rate for a layer of at least so many FLOPs a gradient element, where
# a rank's batch has 32 samples.
_PAPER_RATES = ((196, 25), (128, 50), (0, 400))
_PAPER_SAMPLES = 32

# An offset inside a chunk takes one byte up to this rate, two above.
_ONE_BYTE_RATE_MAX = 256


class _ParameterFlops(TorchDispatchMode):
    """While active, adds the FLOPs of every operation to the parameters that it reads.

    flops: by name. first: names of the first layer's matrices, those that what comes of the inputs
    meets before any other; empty where they are not multiplied.
    """

    def __init__(self, parameters, inputs):
        super().__init__()
        self._names = {_memory(parameter): name for name, parameter in parameters.items()}
        self._matrices = {name for name, parameter in parameters.items() if parameter.dim() > 1}
        self._of_inputs = set(map(_memory, _tensors_in(inputs)))
        self.flops, self.first = {}, None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        read = set(map(_memory, _tensors_in(args)))
        used = {self._names[memory] for memory in read if memory in self._names}
        with FlopCounterMode(display=False) if used else contextlib.nullcontext() as counter:  # Of this operation.
            result = function(*args, **(kwargs or {}))
        flops = counter.get_total_flops() if used else 0
        for name in used:
            self.flops[name] = self.flops.get(name, 0) + flops
            if function.overloadpacket is torch.ops.aten._to_copy:  # What autocast computes with in its place.
                self._names[_memory(result)] = name
        if not self._of_inputs.isdisjoint(read):
            self._of_inputs.update(map(_memory, _tensors_in([result])))
            if self.first is None and used & self._matrices:
                self.first = used & self._matrices if flops else set()
        return result


def _tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)
        elif isinstance(value, dict):
            yield from _tensors_in(value.values())


def _memory(tensor):
    """What a tensor shares with its views, as a key that nothing else has as long as it is kept."""
    return StorageWeakRef(tensor.untyped_storage())


@contextlib.contextmanager
def _unchanged(model):
    """Afterwards buffers and random states are as before; gradients never come to be."""
    kept = [(module._buffers, name, buffer, buffer.clone()) for module in model.modules()
            for name, buffer in module._buffers.items() if buffer is not None]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())
               if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            yield
        finally:
            for buffers, name, buffer, value in kept:
                buffers[name] = buffer.copy_(value)


@contextlib.contextmanager
def _without(library):
    """Recurrent layers, of which the library makes one operation, then go step by step."""
    enabled, library.enabled = library.enabled, False
    try:
        yield
    finally:
        library.enabled = enabled


def _trained(model):
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model is {model!r}; a torch.nn.Module is needed")
    return {name: parameter for name, parameter in model.named_parameters()
            if parameter.requires_grad}


def _measured_flops(model, inputs):
    """FLOPs a gradient element by name, and the names of the first layer's matrices."""
    trained = _trained(model)
    if not trained:
        raise ValueError("no parameter of the model requires a gradient")
    with _unchanged(model), _without(torch.backends.mkldnn), _without(torch.backends.cudnn), \
            _ParameterFlops(trained, inputs) as counter:
        model(*inputs)
    return {name: counter.flops.get(name, 0) / _PAPER_SAMPLES / max(parameter.numel(), 1)
            for name, parameter in trained.items()}, counter.first or set()


def flops_per_gradient(model, *example_inputs):
    """FLOPs a gradient element of each trained parameter by name, as the paper's rule counts them:
    those of the forward pass, a multiplication and an addition being two, for one of 32 samples.

    example_inputs: what a rank gives the model in one step. A rank with 64 samples has twice the
    figure of one with 32: it computes longer for the same gradient. Runs model(*example_inputs)
    once, in the mode (train or eval) that it is in; parameters, gradients, buffers and random
    states are unchanged afterwards; a model on the meta device computes nothing. FLOPs are
    torch.utils.flop_counter's; operations that it does not know, look-ups among them, count
    nothing.
    """
    return _measured_flops(model, example_inputs)[0]


def flops_rates(model, *example_inputs):
    """The paper's rates for each trained parameter, from the shapes of the example inputs, which must
    be the same on all ranks (else broadcast_object() one rank's): 25 from 196 FLOPs a gradient element on, 50 from
    128 on, else 400 (see flops_per_gradient, which takes the same arguments).

    Dense (None) are one-dimensional parameters (biases, normalisation), those of fewer than 1,024
    elements, and the first layer: the matrix that the inputs, or what is made of them alone, are
    multiplied with. A model that looks its inputs up, in an embedding, has none, also where the
    embedding is the output layer as well.
    """
    figures, first = _measured_flops(model, example_inputs)
    trained = _trained(model)
    return {glob.escape(name): None if name in first or not _is_large(trained[name])
            else next(rate for least, rate in _PAPER_RATES if figure >= least)
            for name, figure in figures.items()}


def _is_large(parameter):
    return parameter.dim() > 1 and parameter.numel() >= MIN_ELEMENTS


def _bytes_sent(parameter, rate, size, value_bytes):
    """Bytes that a rank of `size` sends for a parameter's gradient in a step (docs/algorithms.md),
    on average over `size` steps, in which each rank leads once."""
    share = (size - 1) / size
    if rate is None:
        return 2 * share * parameter.numel() * parameter.element_size()
    selected = -(-parameter.numel() // rate)
    offset_bytes = 1 if rate <= _ONE_BYTE_RATE_MAX else 2
    return share * (2 * (selected * value_bytes + 1) + selected * offset_bytes)


def budget_rates(named_parameters, bytes_per_step, size=None, values="float32"):
    """Rates with which a rank sends at most bytes_per_step bytes of gradients in a step.

    Dense while that fits. Else all that is worth it (at least two dimensions and 1,024 elements) has
    one common rate, the mildest that fits: bytes then shrink by the same factor everywhere.

    named_parameters: as of DistributedOptimizer. size: ranks; None, hvd.size(). values: as of
    Compression.scalecom. Offsets and flags are counted; a leader's offsets are spread over the ranks,
    because everyone leads in turn. Not counted is what batches of up to 2 KiB send beyond that to save
    a step, with 3 ranks and more. Warm-up and ramp, mode="auto", a guard and samples of health
    send more. ValueError says the least that is possible.
    """
    check_choice("values", values, VALUES)
    if not isinstance(bytes_per_step, numbers.Real) or not bytes_per_step >= 0:
        raise ValueError(f"bytes_per_step is {bytes_per_step!r}; it must be 0 or more")
    size = basics.size() if size is None else size
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is {size!r}; it must be a whole number of 1 or more")
    parameters = {name: parameter for name, parameter in checked_pairs(named_parameters)
                  if parameter.requires_grad}
    value_bytes = getattr(torch, values).itemsize

    def rates_at(rate):
        return {name: rate if _is_large(parameter) else None
                for name, parameter in parameters.items()}

    def bytes_at(rate):
        return math.ceil(sum(_bytes_sent(parameters[name], of_tensor, size, value_bytes)
                             for name, of_tensor in rates_at(rate).items()))

    rate = _mildest_rate(bytes_at, bytes_per_step)
    return {glob.escape(name): of_tensor for name, of_tensor in rates_at(rate).items()}


def _mildest_rate(bytes_at, bytes_max):
    if bytes_at(None) <= bytes_max:
        return None
    # Offsets grow from one byte to two in between: on both sides bytes fall as the rate rises.
    for low, high in ((2, _ONE_BYTE_RATE_MAX), (_ONE_BYTE_RATE_MAX + 1, RATE_MAX)):
        if bytes_at(high) <= bytes_max:
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if bytes_at(middle) <= bytes_max else (middle + 1, high)
            return low
    least = min((_ONE_BYTE_RATE_MAX, RATE_MAX), key=bytes_at)
    raise ValueError(f"bytes_per_step is {bytes_max}; a rank sends {bytes_at(least)} bytes at least, "
                     f"at rate {least}. What stays dense (one dimension, or fewer than "
                     f"{MIN_ELEMENTS} elements) is in it. Give more, or use values='float16'")
