"""DistributedOptimizer with op Adasum: what a step does to the parameters is reduced, not gradients."""

import torch

from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import used
from scalecom.reductions import Adasum
from scalecom.torch import mpi_ops
from scalecom.torch.eager import eager
from scalecom.torch.optimizer_state import ChangeMixin
from scalecom.torch.parameters import Hooks, check_passes, refuse_pass, takes_part


class DeltaSettings(Hooks):
    """What the wrapped optimizer was asked for, and its backward passes since the last step."""

    op = Adasum

    def __init__(self, names, compression, passes, process_set):
        super().__init__(names)
        self.compression = compression
        self.passes = passes
        self.process_set = process_set
        self.passes_done = {}  # By parameter.
        self.add(names)

    def add(self, parameters):
        """These, which `names` has, are reduced from now on."""
        for parameter in parameters:
            self.hook(parameter, self.count_pass)

    def count_pass(self, parameter):
        """The backward pass has accumulated its gradient: the parameter's hook."""
        done = self.passes_done.get(parameter, 0) + 1
        if done > self.passes:
            refuse_pass(self.names[parameter], self.passes)
        self.passes_done[parameter] = done


class DeltaMixin(ChangeMixin):
    """Overrides of an optimizer whose class it is mixed into; see DistributedOptimizer."""

    def synchronize(self):
        """Does nothing: gradients stay this rank's own."""

    def skip_synchronize(self):
        raise AssertionError("skip_synchronize() was called, but with op Adasum step() reduces what "
                             "it has done itself, in every call; leave it out")

    def forget_step(self):
        """Gives up a step half-way, whose session is over."""
        self._scalecom.passes_done.clear()

    def set_backward_passes_per_step(self, passes):
        check_passes(passes)
        self._scalecom.passes = passes
        self.forget_step()

    def zero_grad(self, *args, **kwargs):
        self._scalecom.passes_done.clear()
        return super().zero_grad(*args, **kwargs)

    @eager
    def step(self, closure=None):
        """Takes this rank's step, and replaces what it does to the parameters by its Adasum over
        the ranks. After a HorovodInternalError the parameters are undefined."""
        settings = self._scalecom
        settings.check_hooked()
        self._adopt()  # What has come past add_param_group().
        names = {parameter: name for parameter, name in settings.names.items()
                 if takes_part(parameter)}
        starts = [parameter.detach().clone() for parameter in names]
        loss = super().step(closure)
        settings.passes_done.clear()
        with torch.no_grad(), used(settings.process_set):
            self._reduce(names, starts)
        return loss

    def _reduce(self, names, starts):
        handles = []
        for place, ((parameter, name), start) in enumerate(zip(names.items(), starts)):
            delta = (parameter - start).contiguous()
            handles.append(mpi_ops.allreduce_async_(
                delta, name=name, op=Adasum, compression=self._scalecom.compression,
                priority=-1 - place))
        first_error = None
        for parameter, start, handle in zip(names, starts, handles):
            try:
                parameter.copy_(start.add_(mpi_ops.synchronize(handle)))
            except HorovodInternalError as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error
