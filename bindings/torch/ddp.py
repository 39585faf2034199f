"""torch's DistributedDataParallel with scalecom's all-reduce.

    model = DistributedDataParallel(net)
    model.register_comm_hook(hvd.DDPState(model, hvd.Compression.scalecom(rate=100)), hvd.ddp_hook)

Every parameter is a tensor of its own under its name, so that residuals outlive the buckets, which
DistributedDataParallel makes anew after the first step. The ranks are those of the model's process
group, if that is of the backend "scalecom", else all. What goes wrong between ranks ends
backward() with a RuntimeError that holds HorovodInternalError's text.
"""

import contextlib
import functools

import torch
import torch.distributed as dist

from scalecom import basics
from scalecom.process_sets import used
from scalecom.scalecom_options import gradient_options
from scalecom.torch import completion, mpi_ops, plan, state, submit
from scalecom.torch.compression import Compression, ScaleComCompressor, check_compression
from scalecom.torch.process_group import ScaleComProcessGroup


class HookState:
    """What reduces a model's gradients for a hook of torch: by which compression, over which ranks,
    and under which names, by which residuals are kept."""

    def __init__(self, compression, op, name):
        check_compression(compression)
        if op not in (mpi_ops.Average, mpi_ops.Sum):
            raise ValueError(f"op is {op}; a hook takes Average or Sum")
        self.compression = compression
        self.op = op
        self.name = name
        self.process_set = None
        self._gradients = None  # parameter -> (name, C options or None, priority)

    def _take(self, names, process_set):
        """names: {name in the model: parameter}."""
        self.process_set = process_set
        if isinstance(self.compression, ScaleComCompressor):
            self.compression.check_patterns(list(names))
        # What the next forward pass needs first goes first, as in DistributedOptimizer.
        self._gradients = {
            parameter: (self.name + name, gradient_options(self.compression, name,
                                                          self._part_of(parameter)), -1 - place)
            for place, (name, parameter) in enumerate(names.items())}
        plan.watch(self, lambda one: one)

    def _part_of(self, parameter):
        """What of it this rank reduces: a tensor of that part's shape."""
        return parameter

    def _shape_of(self, parameter):
        """Of its gradient as it travels."""
        return tuple(parameter.shape)

    def named_parameters(self):
        """Of the attached model, as the patterns of rates know them: the part that is reduced here of
        each."""
        return [(name[len(self.name):], self._part_of(parameter))
                for parameter, (name, _, _) in (self._gradients or {}).items()]

    def state_dict(self):
        """This rank's residuals and steps of the attached model."""
        with used(self.process_set):
            return state.model_state({name for name, _, _ in self._gradients.values()})

    def load_state_dict(self, saved):
        """Replaces residuals and steps; nothing where they are another model's (ValueError)."""
        shapes = {name: self._shape_of(parameter)
                  for parameter, (name, _, _) in self._gradients.items()}
        with used(self.process_set):
            state.load_model_state(saved, shapes)

    def start(self, gradients, places):
        """Starts to reduce the gradients in place; finish() ends what this returns. places: (name,
        C options, priority) of each."""
        parts = []
        try:
            for gradient, (name, options, priority) in zip(gradients, places):
                # Memory is reduced in the order it lies in, of a channels_last parameter its own.
                wire, _, end = mpi_ops.compress(gradient, True, self.compression)
                with used(self.process_set):
                    ticket = submit.all_reduce(wire, wire, name, self.op, 1.0, 1.0, options,
                                               priority)
                parts.append((ticket, end))
        except Exception:
            with contextlib.suppress(Exception):
                finish(parts)
            raise
        return parts


class DDPState(HookState):
    """What ddp_hook works with: the first argument of register_comm_hook().

    compression: as in DistributedOptimizer, with its rates by parameter name. op: Average or Sum.
    name: is put before the parameters' names; of two models in one process each needs its own,
    because residuals are kept by name. state_dict() and pickling hold this rank's residuals and
    steps; after load_state_dict() training goes on as if it had not stopped. An unpickled state
    needs attach(model) before it is used.
    """

    def __init__(self, model, compression=Compression.none, op=mpi_ops.Average, name=""):
        super().__init__(compression, op, name)
        self._saved = None
        self.attach(model)

    def attach(self, model):
        """Names the parameters of `model`, a module or its DistributedDataParallel."""
        is_wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        module = model.module if is_wrapped else model
        if isinstance(self.compression, ScaleComCompressor) and is_wrapped and (
                model.find_unused_parameters):
            raise ValueError("find_unused_parameters is set: what ScaleCom delivers to a "
                             "parameter that no rank used would be thrown away; leave it out, "
                             "or use Compression.none")
        self._take({name: parameter for name, parameter in module.named_parameters()
                    if parameter.requires_grad},
                   process_set_of(model.process_group) if is_wrapped else None)
        if self._saved is not None:
            self.load_state_dict(self._saved)
            self._saved = None

    def gradient_of(self, parameter):
        """(name, C options, priority)"""
        if self._gradients is None:
            raise ValueError("this DDPState was unpickled; call attach(model) before it is used")
        if parameter not in self._gradients:
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not of the model "
                             "that DDPState was made for; call attach() with this one")
        return self._gradients[parameter]

    def state_dict(self):
        return self._saved if self._gradients is None else super().state_dict()

    def load_state_dict(self, saved):
        if self._gradients is None:
            self._saved = saved
        else:
            super().load_state_dict(saved)

    def __getstate__(self):
        return {"compression": self.compression, "op": self.op, "name": self.name,
                "saved": self.state_dict()}

    def __setstate__(self, pickled):
        self.compression, self.op = pickled["compression"], pickled["op"]
        self.name = pickled["name"]
        self.process_set = self._gradients = None
        self._saved = pickled["saved"]


def process_set_of(group):
    """The ranks that a hook's model works with in `group`, a process group."""
    if isinstance(group, ScaleComProcessGroup):
        return group.process_set
    if dist.get_world_size(group) != basics.size():
        raise ValueError(f"the model's process group has {dist.get_world_size(group)} ranks, the job "
                         f"{basics.size()}; make the group with backend=\"scalecom\", which "
                         "hooks then follow")
    return None


def finish(parts):
    """Waits for all (ticket, end) that were started; raises the first error."""
    error = None
    for ticket, end in parts:
        try:
            ticket.wait()
            end()
        except Exception as problem:
            error = error or problem
    if error is not None:
        raise error


def ddp_hook(ddp_state, bucket):
    """Reduces a bucket's gradients over all ranks in place; the communication hook to register."""
    gradients = bucket.gradients()
    # Everything that can be wrong here is found before anything is submitted.
    places = [ddp_state.gradient_of(parameter) for parameter in bucket.parameters()]
    if len(gradients) != len(places) or bucket.buffer().layout != torch.strided:
        raise ValueError(f"the gradient of {places[0][0]} is sparse, which ddp_hook does not "
                         "reduce; use sparse=False in the embedding")
    parts = ddp_state.start(gradients, places)
    buffer = bucket.buffer()
    return completion.future_of(functools.partial(finish, parts), buffer, buffer.device)
