"""DistributedOptimizer: an optimizer whose gradients, or steps, are reduced over all ranks."""

from scalecom.process_sets import global_process_set, used
from scalecom.reductions import Adasum, Average, Sum, check_predivide_factor, word_of
from scalecom.torch import plan
from scalecom.torch.compression import Compression
from scalecom.torch.delta_optimizer import DeltaMixin, DeltaSettings
from scalecom.torch.gradient_optimizer import GradientMixin, GradientSettings
from scalecom.torch.optimizer_state import check_use, mix_in
from scalecom.torch.parameters import (ParameterNames, check_optimizer, check_passes, groups_of,
                                       release_at_end, take_over)


def DistributedOptimizer(optimizer, named_parameters=None, compression=Compression.none,
                         backward_passes_per_step=1, op=Average,
                         gradient_predivide_factor=1.0, num_groups=0, groups=None,
                         sparse_as_dense=False, process_set=None):
    """Wraps an optimizer: its gradients are reduced over all ranks before each step.

    Reductions start while the backward pass goes on, so communication overlaps computation: a large
    gradient's and a group's at once, those of small gradients when they are 1 MiB or 64, and the last
    ones in step(), which waits for all. Of those that wait for the network, the first in
    named_parameters goes first, because the next forward pass needs it first. The result is an
    instance of the optimizer's class that shares its state, with synchronize(), skip_synchronize(),
    set_backward_passes_per_step(), and residuals in state_dict(). Residuals belong to names and
    live as long as the session. Models that are trained beside each other, as a GAN's two, need
    named_parameters with names of their own: compressed gradients that take turns with a name are
    refused (ValueError); one model after another goes on with what is owed. `compression` may be
    assigned between two steps. A later DistributedOptimizer of the same parameters takes them over;
    hooks in them go with the wrapper that made them.

    named_parameters: model.named_parameters(), in one order on every rank; names identify gradients
    across ranks and key the residuals. Parameters may be frozen and unfrozen, and come by
    add_param_group(), on all ranks before the same step. op: Average, Sum or Adasum (below).
    gradient_predivide_factor f: gradients are divided by f before the sum and multiplied by f after
    the average. Sparse gradients stay so and travel uncompressed by sparse_allreduce_async, or
    where sparse_as_dense is True as dense ones. Without it the first step decides for all: where
    any rank has a dense gradient, or none has one, a parameter's are dense from then on. groups:
    lists of parameters whose gradients start together, when all of a list are accumulated (those in
    no list start alone), or the number of such lists to cut named_parameters into; num_groups is
    its former name. Each gradient keeps its name and its compression. process_set: the ranks whose
    gradients are reduced; on a rank that is not in it the gradients stay as they are.

    op Adasum reduces what steps do to the parameters, and no gradients (arXiv 2006.02924): step()
    takes this rank's own step, and then every parameter becomes what it was plus the Adasum of the
    ranks' changes. Call it on every rank or on none. The optimizer's state is each rank's own.
    synchronize() does nothing; skip_synchronize() is refused; groups and sparse_as_dense have no
    effect; Compression.scalecom is refused.
    """
    used(process_set)
    check_optimizer(optimizer)
    if op not in (Average, Sum, Adasum):
        raise ValueError(f"op is {word_of(op)}; a DistributedOptimizer takes Average or Sum, or Adasum")
    check_passes(backward_passes_per_step)
    check_predivide_factor(gradient_predivide_factor, op)
    names = ParameterNames(optimizer, named_parameters)
    check_use(compression, op, names)
    lists = groups_of(names, num_groups if groups is None else groups)
    wrapped = mix_in(DeltaMixin if op == Adasum else GradientMixin, optimizer)
    if process_set is not None and not process_set.included():
        names.leave_out()
        process_set = None
    for former in take_over(names, (process_set or global_process_set).reducing):
        plan.forget(former)
    if op == Adasum:
        wrapped._scalecom = DeltaSettings(names, compression, backward_passes_per_step, process_set)
    else:
        wrapped._scalecom = GradientSettings(names, compression, op, backward_passes_per_step,
                                             gradient_predivide_factor, sparse_as_dense, process_set)
        wrapped._scalecom.join(lists)
        plan.watch(wrapped, lambda one: one._scalecom)
    wrapped._parameter_names = names  # So Horovod has it.
    release_at_end(wrapped)
    return wrapped
