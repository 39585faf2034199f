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
import weakref

import torch
import torch.distributed as dist

from scalecom import basics
from scalecom.compression import ScaleComCompressor, check_compression, gradient_options
from scalecom.name_owners import claim, refuse_name
from scalecom.process_sets import global_process_set, used
from scalecom.reductions import Average, Sum, word_of
from scalecom.residuals import check_parts
from scalecom.torch import completion, mpi_ops, plan, submit
from scalecom.torch.compression import Compression
from scalecom.torch.process_group import ScaleComProcessGroup
from scalecom.torch.residuals import residuals

# By process set: of each name, the last backward pass with its gradient, and the parameter's id().
_last_passes = weakref.WeakKeyDictionary()

# Of the backward pass that this thread works for; -1 outside of any.
_number_of_pass = torch._C._current_graph_task_id


class HookState:
    """What reduces a model's gradients for a hook of torch: by which compression, over which ranks,
    and under which names, by which residuals are kept."""

    _OTHER_NAMES = "by `name`, which is put before them"

    def __init__(self, compression, op, name):
        check_compression(compression)
        if op not in (Average, Sum):
            raise ValueError(f"op is {word_of(op)}; a hook takes Average or Sum")
        self._compression = compression
        self.op = op
        self.name = name
        self.process_set = None
        self._gradients = None  # parameter -> (name, its reduction)

    @property
    def compression(self):
        """How gradients are compressed. It may be assigned between two steps, on every rank before the
        same one: what is owed goes along."""
        return self._compression

    @compression.setter
    def compression(self, compression):
        self._check(compression)
        if self._gradients is not None:
            self._gradients = self._ways(compression, {
                name[len(self.name):]: parameter
                for parameter, (name, _) in self._gradients.items()})
        self._compression = compression

    def _check(self, compression):
        """Raises ValueError for what it does not work with."""
        check_compression(compression)

    def _ways(self, compression, names):
        """parameter -> (name, its reduction), of {name in the model: parameter}."""
        if isinstance(compression, ScaleComCompressor):
            compression.check_patterns(list(names))
        # What the next forward pass needs first goes first, as in DistributedOptimizer.
        return {parameter: (self.name + name, submit.reduction_of(
            self.op, options=gradient_options(compression, name, self._part_of(parameter)), priority=-1 - place))
                for place, (name, parameter) in enumerate(names.items())}

    def _take(self, names, process_set, saved=None):
        """names: {name in the model: parameter}. saved: a state_dict() to go on from. Nothing is
        changed where this raises."""
        gradients = self._ways(self._compression, names)
        with used(process_set):
            load = (lambda: None) if saved is None else residuals.prepare_model_state(
                saved, self._shapes_of(gradients))
            self.process_set, self._gradients = process_set, gradients
            load()
        plan.watch(self, lambda one: one)

    def _part_of(self, parameter):
        """What of it this rank reduces: a tensor of that part's shape."""
        return parameter

    def _shape_of(self, parameter):
        """Of its gradient as it travels."""
        return tuple(parameter.shape)

    def _shapes_of(self, gradients):
        return {name: self._shape_of(parameter) for parameter, (name, _) in gradients.items()}

    def named_parameters(self):
        """Of the attached model, as the patterns of rates know them: the part that is reduced here of
        each."""
        return [(name[len(self.name):], self._part_of(parameter))
                for parameter, (name, _) in (self._gradients or {}).items()]

    def state_dict(self):
        """This rank's residuals and steps of the attached model."""
        with used(self.process_set):
            return residuals.model_state({name for name, _ in self._gradients.values()})

    def load_state_dict(self, saved):
        """Replaces residuals and steps; nothing where they are another model's (ValueError). Of another
        rank, or number of ranks, they start with zero, and a warning says so."""
        with used(self.process_set):
            residuals.load_model_state(saved, self._shapes_of(self._gradients))

    def _check_pass(self, parameters, places):
        """Raises ValueError where a backward pass brings gradients of two parameters under one name."""
        now = _number_of_pass()
        last = _last_passes.setdefault(self.process_set or global_process_set, {})
        for parameter, (name, _) in zip(parameters, places):
            other = last.get(name)
            if other is not None and other[0] == now >= 0 and other[1] != id(parameter):
                refuse_name(name, self._OTHER_NAMES)
            last[name] = now, id(parameter)

    def start(self, gradients, parameters):
        """Starts to reduce the parameters' gradients in place; finish() ends what this returns."""
        places = [self._gradients[parameter] for parameter in parameters]
        self._check_pass(parameters, places)
        for parameter, (name, reduction) in zip(parameters, places):
            if reduction.compression.rate:
                claim(self.process_set, name, parameter, self, self._OTHER_NAMES)
        parts = []
        try:
            for gradient, (name, reduction) in zip(gradients, places):
                # Memory is reduced in the order it lies in, of a channels_last parameter its own.
                wire, _, end = mpi_ops.compress(gradient, True, self.compression)
                with used(self.process_set):
                    ticket = submit.all_reduce(wire, wire, name, reduction)
                parts.append((ticket, end))
        except Exception:
            with contextlib.suppress(Exception):
                finish(parts)
            raise
        return parts


def _check_unused(finds_unused, compression):
    if finds_unused and isinstance(compression, ScaleComCompressor):
        raise ValueError("find_unused_parameters is set: what ScaleCom delivers to a parameter that no "
                         "rank used would be thrown away; leave it out, or use Compression.none")


class DDPState(HookState):
    """What ddp_hook works with: the first argument of register_comm_hook().

    compression: as in DistributedOptimizer, with its rates by parameter name. op: Average or Sum.
    name: is put before the parameters' names; of two models in one process each needs its own,
    because residuals are kept by name. state_dict() and pickling hold this rank's residuals and
    steps; after load_state_dict() training goes on as if it had not stopped. An unpickled state
    needs attach(model) before it is used.
    """

    def __init__(self, model, compression=Compression.none, op=Average, name=""):
        super().__init__(compression, op, name)
        self._saved = None
        self.attach(model)

    def attach(self, model):
        """Names the parameters of `model`, a module or its DistributedDataParallel. Where it raises, what
        was unpickled is as before."""
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"model is {model!r}; a torch.nn.Module or its DistributedDataParallel is "
                             "needed")
        is_wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        module = model.module if is_wrapped else model
        finds_unused = is_wrapped and model.find_unused_parameters
        _check_unused(finds_unused, self.compression)
        self._take({name: parameter for name, parameter in module.named_parameters()
                    if parameter.requires_grad},
                   process_set_of(model.process_group) if is_wrapped else None, self._saved)
        self._finds_unused, self._saved = finds_unused, None

    def _check(self, compression):
        super()._check(compression)
        _check_unused(self._finds_unused, compression)

    def name_of(self, parameter):
        """By which its residual is kept. ValueError where this does not reduce it."""
        if self._gradients is None:
            raise ValueError("this DDPState was unpickled; call attach(model) before it is used")
        if parameter not in self._gradients:
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not of the model "
                             "that DDPState was made for; call attach() with this one")
        return self._gradients[parameter][0]

    def state_dict(self):
        return self._saved if self._gradients is None else super().state_dict()

    def load_state_dict(self, saved):
        if self._gradients is None:
            check_parts(saved, "the saved state")
            self._saved = saved
        else:
            super().load_state_dict(saved)

    def __getstate__(self):
        return {"compression": self.compression, "op": self.op, "name": self.name,
                "saved": self.state_dict()}

    def __setstate__(self, pickled):
        self._compression, self.op = pickled["compression"], pickled["op"]
        self.name = pickled["name"]
        self.process_set = self._gradients = None
        self._finds_unused, self._saved = False, pickled["saved"]


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
    parameters = bucket.parameters()
    names = [ddp_state.name_of(parameter) for parameter in parameters]
    if len(gradients) != len(names) or bucket.buffer().layout != torch.strided:
        raise ValueError(f"the gradient of {names[0]} is sparse, which ddp_hook does not "
                         "reduce; use sparse=False in the embedding")
    parts = ddp_state.start(gradients, parameters)
    buffer = bucket.buffer()
    return completion.future_of(functools.partial(finish, parts), buffer, buffer.device)
