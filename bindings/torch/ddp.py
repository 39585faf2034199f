"""torch's DistributedDataParallel with scalecom's all-reduce.

    model = DistributedDataParallel(net)
    model.register_comm_hook(hvd.DDPState(model, hvd.Compression.scalecom(rate=100)), hvd.ddp_hook)

Every parameter is a tensor of its own under its name, so that residuals outlive the buckets, which
DistributedDataParallel makes anew after the first step.
"""

import queue
import threading

import torch

from scalecom.torch import mpi_ops, state, submit
from scalecom.torch.compression import Compression, ScaleComCompressor, check_compression


class DDPState:
    """What ddp_hook works with: the first argument of register_comm_hook().

    compression: as in DistributedOptimizer, with its rates by parameter name. op: Average or Sum.
    state_dict() and pickling hold this rank's residuals and steps; after load_state_dict() training
    goes on as if it had not stopped. An unpickled state needs attach(model) before it is used.
    """

    def __init__(self, model, compression=Compression.none, op=mpi_ops.Average):
        check_compression(compression)
        if op not in (mpi_ops.Average, mpi_ops.Sum):
            raise ValueError(f"op is {op}; ddp_hook takes Average or Sum")
        self.compression = compression
        self.op = op
        self._gradients = None  # parameter -> (name, C options or None, priority)
        self._saved = None
        self.attach(model)

    def attach(self, model):
        """Names the parameters of `model`, a module or its DistributedDataParallel."""
        wrapper = torch.nn.parallel.DistributedDataParallel
        module = model.module if isinstance(model, wrapper) else model
        names = {name: parameter for name, parameter in module.named_parameters()
                 if parameter.requires_grad}
        if isinstance(self.compression, ScaleComCompressor):
            self.compression.check_patterns(list(names))
        # What the next forward pass needs first goes first, as in DistributedOptimizer.
        self._gradients = {parameter: (name, self._options(name, parameter), -1 - place)
                           for place, (name, parameter) in enumerate(names.items())}
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self.load_state_dict(saved)

    def _options(self, name, parameter):
        if not isinstance(self.compression, ScaleComCompressor):
            return None
        rate = self.compression.rate_of(name, parameter)
        return None if rate is None else self.compression.options(rate)

    def gradient_of(self, parameter):
        """(name, C options, priority)"""
        if self._gradients is None:
            raise ValueError("this DDPState was unpickled; call attach(model) before it is used")
        if parameter not in self._gradients:
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not of the model "
                             "that DDPState was made for; call attach() with this one")
        return self._gradients[parameter]

    def state_dict(self):
        """This rank's residuals and steps of the attached model."""
        names = {name for name, _, _ in self._gradients.values()}
        return {"residuals": {name: value for name, value in state.compression_state().items()
                              if name in names},
                "steps": {name: step for name, step in state.compression_steps().items()
                          if name in names}}

    def load_state_dict(self, saved):
        """Replaces residuals and steps; nothing where they are another model's (ValueError)."""
        shapes = {name: tuple(parameter.shape if parameter.is_contiguous()
                              else (parameter.numel(),))  # See _flat().
                  for parameter, (name, _, _) in self._gradients.items()}
        state.check_residuals(saved["residuals"], shapes)
        state.load_compression_state(saved["residuals"], saved["steps"])

    def __getstate__(self):
        return {"compression": self.compression, "op": self.op,
                "saved": self._saved or self.state_dict()}

    def __setstate__(self, pickled):
        self.compression, self.op = pickled["compression"], pickled["op"]
        self._gradients, self._saved = None, pickled["saved"]


class _Completion:
    """A thread that waits for buckets in the order they were submitted. It sleeps in the library,
    without the interpreter's lock."""

    def __init__(self):
        self._buckets = queue.SimpleQueue()
        self._thread = None

    def add(self, parts, buffer):
        """A future of `buffer`; parts: (ticket, finish) of each gradient in it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="scalecom-ddp", daemon=True)
            self._thread.start()
        future = torch.futures.Future()
        self._buckets.put((parts, buffer, future))
        return future

    def _run(self):
        while True:
            parts, buffer, future = self._buckets.get()
            error = None
            for ticket, finish in parts:  # All of them: none may be in flight when DDP goes on.
                try:
                    ticket.wait()
                    finish()
                except Exception as problem:
                    error = error or problem
            if error is None:
                future.set_result(buffer)
            else:
                future.set_exception(error)
            del parts, buffer, future


_completion = _Completion()


def _flat(gradient):
    """The gradient as contiguous memory: of a channels_last parameter, in the order it lies."""
    if gradient.is_contiguous():
        return gradient
    return gradient.as_strided((gradient.numel(),), (1,), gradient.storage_offset())


def ddp_hook(ddp_state, bucket):
    """Reduces a bucket's gradients over all ranks in place; the communication hook to register."""
    parts = []
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients()):
        name, options, priority = ddp_state.gradient_of(parameter)
        wire, _, finish = mpi_ops.compress(_flat(gradient), True, ddp_state.compression)
        ticket = submit.all_reduce(wire, wire, name, ddp_state.op, 1.0, 1.0, options, priority)
        parts.append((ticket, finish))
    return _completion.add(parts, bucket.buffer())
