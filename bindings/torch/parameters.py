"""The parameters of a DistributedOptimizer, their names and groups, and checks of what it is asked for."""

import collections
import weakref

import torch

from scalecom.name_owners import end_garbage
from scalecom.rates import is_whole


class ParameterNames(dict):
    """parameter -> name, in the order of named_parameters: of every parameter that the optimizer has,
    frozen ones too, and, after adopt(), of those that came later. Names without named_parameters, and those of later
    parameters that it lacks, go by group and place, and are hence the same on all ranks."""

    def __init__(self, optimizer, named_parameters):
        groups = optimizer.param_groups
        pairs = _by_place(groups) if named_parameters is None else checked_pairs(named_parameters)
        self.given = {parameter: name for name, parameter in pairs}
        own = [parameter for group in groups for parameter in group["params"]]
        missing = [place for place, parameter in enumerate(own) if parameter not in self.given]
        if missing:
            raise ValueError(f"named_parameters lacks the optimizer's parameters at places "
                             f"{missing[:10]}; give the names of all of them")
        self._count = len(own)
        own = set(own)
        super().__init__((parameter, name) for parameter, name in self.given.items()
                         if parameter in own)
        self._is_idle = False

    def shapes(self):
        """{name: shape}"""
        return {name: tuple(parameter.shape) for parameter, name in self.items()}

    def leave_out(self):
        """This rank is not in the process set: there are none, and none to come."""
        self.clear()
        self._is_idle = True

    def adopt(self, groups):
        """Takes in what has come to the optimizer's groups; returns it as a list of parameters."""
        count = sum(len(group["params"]) for group in groups)
        if count == self._count or self._is_idle:
            return []
        self._count = count
        came = {parameter: name for name, parameter in _by_place(groups) if parameter not in self}
        for parameter, name in came.items():
            taken = {*self.values(), *self.given.values()}
            while name in taken:  # Of a group that is gone.
                name += ".again"
            self[parameter] = self.given.get(parameter, name)
        return list(came)


def takes_part(parameter):
    """Whether a step reduces it: not while it is frozen, unless it has a gradient all the same."""
    return parameter.requires_grad or parameter.grad is not None


class Hooks:
    """Those of a DistributedOptimizer in its parameters: as long as it lives, and until a later one takes
    parameters of it over."""

    def __init__(self, names):
        self.names = names
        self._handles = []
        self.is_released = False

    def hook(self, parameter, count_pass):
        """Calls count_pass(parameter) when a backward pass has accumulated its gradient, now or once it
        is unfrozen."""
        if not (parameter.is_floating_point() or parameter.is_complex()):
            return  # It never has one.
        is_trained = parameter.requires_grad
        try:
            parameter.requires_grad_(True)  # Torch takes a hook for no other, and keeps it afterwards.
            self._handles.append(parameter.register_post_accumulate_grad_hook(count_pass))
        finally:
            parameter.requires_grad_(is_trained)

    def is_reducing(self):
        """Whether something of a step is on its way."""
        return False

    def release(self):
        """Gradients are not looked at any more."""
        self.is_released = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def end(self):
        """Its optimizer is gone."""
        self.release()

    def check_hooked(self):
        if self.is_released:
            raise AssertionError("parameters of this DistributedOptimizer were taken over by a later one, which "
                                 "reduces their gradients; step that one, and give each parameter to one alone")


# Optimizers with hooks in their parameters.
_hooking = weakref.WeakSet()


def take_over(names, reducing):
    """Releases the parameters in `names` from the optimizers that were made of them before; returns these.
    reducing: of their process set."""
    if any(one._scalecom.is_reducing() for one in _hooked_in(names)):
        end_garbage()
    former = _hooked_in(names)
    if any(one._scalecom.is_reducing() for one in former):
        raise AssertionError("another DistributedOptimizer is reducing gradients of these parameters; call its step() "
                             "or synchronize() first")
    for settings in dict.fromkeys(gradient.settings for gradient in list(reducing.values())):
        if settings.is_gone and not settings.names.keys().isdisjoint(names):
            settings.end_step()
    for one in former:
        one._scalecom.release()
    return former


def _hooked_in(names):
    return [one for one in list(_hooking)
            if not one._scalecom.is_released and not one._scalecom.names.keys().isdisjoint(names)]


def release_at_end(optimizer):
    """Its hooks go with it."""
    _hooking.add(optimizer)
    weakref.finalize(optimizer, optimizer._scalecom.end).atexit = False


def _by_place(groups):
    return [(f"parameter.{group}.{place}", parameter) for group, content in enumerate(groups)
            for place, parameter in enumerate(content["params"])]


def checked_pairs(named_parameters):
    """Pairs of name and parameter as a list; ValueError where they are none, or a name comes twice."""
    pairs = list(named_parameters) if hasattr(named_parameters, "__iter__") else [named_parameters]
    strange = [pair for pair in pairs if not (isinstance(pair, tuple) and len(pair) == 2)]
    if strange:
        raise ValueError(f"named_parameters has a {type(strange[0]).__name__}; pairs of name and parameter are "
                         "needed: model.named_parameters()")
    check_names("named_parameters", [name for name, _ in pairs])
    return pairs


def check_names(what, names):
    """Raises ValueError where `what`, an argument, has a name more than once."""
    repeated = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"{what} has names more than once: {', '.join(map(str, repeated))}; each parameter "
                         "needs a name of its own")


def groups_of(names, groups):
    """Lists of parameters, from such lists or from a number of groups, into which those are cut that
    are not frozen."""
    if isinstance(groups, int) and groups >= 0:
        parameters = [parameter for parameter in names if parameter.requires_grad]
        count = min(groups, len(parameters))
        bounds = [len(parameters) * number // count for number in range(count + 1)] if count else []
        return [parameters[begin:end] for begin, end in zip(bounds, bounds[1:])]
    if not (isinstance(groups, (list, tuple))
            and all(isinstance(group, (list, tuple)) for group in groups)
            and all(isinstance(one, torch.Tensor) for group in groups for one in group)):
        raise ValueError(f"groups is {groups!r}; allowed are a number of groups, 0 or more, and a "
                         "list of lists of parameters")
    grouped = [parameter for group in groups for parameter in group]
    if len(set(grouped)) < len(grouped):
        raise ValueError("groups has a parameter more than once; it can be in one group only")
    # Frozen ones of the model may have been kept from the optimizer.
    strangers = [one for one in grouped
                 if one not in names and (one.requires_grad or one not in names.given)]
    if strangers:
        raise ValueError(f"groups has {len(strangers)} parameters that the optimizer has not; leave "
                         "them out")
    return groups


def check_is_optimizer(optimizer):
    """Raises ValueError for what is none."""
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(f"optimizer is a {type(optimizer).__name__}; a torch.optim.Optimizer is "
                         "needed")


def check_optimizer(optimizer):
    """Raises ValueError for what cannot be wrapped."""
    check_is_optimizer(optimizer)
    former = optimizer.__dict__.get("_scalecom")
    if former is not None and not former.is_released:
        end_garbage()
    if former is not None and not former.is_released:
        raise ValueError(f"optimizer, {type(optimizer).__name__}, is wrapped already; its gradients "
                         "would be reduced twice: go on with the first wrapper, whose `compression` may be "
                         "assigned, or wrap a new one")


def check_passes(passes):
    if not is_whole(passes) or passes < 1:
        raise ValueError(f"backward_passes_per_step is {passes!r}; it must be a whole number, 1 or "
                         "more")


def refuse_pass(name, passes):
    """Of a gradient that has had its backward passes."""
    raise AssertionError(
        f"the gradient of {name} was computed more than {passes} times before step(); set "
        "backward_passes_per_step to the number of backward passes between two steps")
