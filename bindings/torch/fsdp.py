"""torch's fully_shard with scalecom's all-reduce between the replicas.

    mesh = init_device_mesh("cpu", (2, 4), mesh_dim_names=("replicate", "shard"))
    fully_shard(net, mesh=mesh["shard"])  # And its blocks before it.
    state = hvd.register_fsdp_hook(net, mesh.get_group("replicate"),
                                   hvd.Compression.scalecom(rate=100))

fully_shard reduces and scatters a module's gradients over the shard dimension; the hook then averages
this rank's part over the replicas, which hold the same part. Each parameter's shard is a tensor of its
own under the parameter's name, so that rates and residuals are a parameter's, whatever modules are
sharded together.
"""

import functools

import torch

from scalecom.reductions import Average
from scalecom.torch.compression import Compression
from scalecom.torch.ddp import HookState, finish, process_set_of


def _own_parameters(module, visited):
    """A module's parameters in the order in which fully_shard lays gradients out: submodules' first,
    without those in `visited`, to which it adds. What is tied comes once for each of its places, of
    which fully_shard takes the first."""
    visited.add(module)
    for child in module.children():
        if child not in visited:
            yield from _own_parameters(child, visited)
    yield from module.parameters(recurse=False)


def _wire_part(name, parameter):
    """A tensor without memory of the shape, with padding, that the reduce-scatter leaves here of the
    parameter's gradient."""
    mesh = parameter.device_mesh
    placement = parameter.placements[0]
    if mesh.ndim != 1 or not placement.is_shard():
        dimensions = ", ".join(mesh.mesh_dim_names or map(str, range(mesh.ndim)))
        raise ValueError(f"parameter {name} lies on the mesh of dimensions ({dimensions}) as "
                         f"{parameter.placements}; needed is one that is sharded: give fully_shard "
                         "the mesh's shard dimension alone, mesh=mesh[\"shard\"], of size 1 where "
                         "the model is only replicated")
    shape = list(parameter.shape)
    shape[placement.dim] = -(-shape[placement.dim] // mesh.size())
    one = torch.empty((), dtype=parameter.dtype, device=parameter.device)
    return one.expand(shape).requires_grad_()


class FSDPState(HookState):
    """What register_fsdp_hook() returns: this rank's residuals, by state_dict() and
    load_state_dict()."""

    def __init__(self, model, group, compression, op, name):
        super().__init__(compression, op, name)
        from torch.distributed.fsdp import FSDPModule  # A second, which others need not wait.
        from torch.distributed.tensor import DTensor
        modules = {prefix: module for prefix, module in model.named_modules()
                   if isinstance(module, FSDPModule)}
        if not modules:
            raise ValueError("fully_shard was applied to no module of the model; apply it before "
                             "the hook is registered")
        groups = {prefix: [parameter for parameter in dict.fromkeys(
            _own_parameters(module, set(modules.values())))
            if parameter.requires_grad and isinstance(parameter, DTensor)]
            for prefix, module in modules.items()}
        reduced = {parameter for of_module in groups.values() for parameter in of_module}
        names = {name: parameter for name, parameter in model.named_parameters()
                 if parameter in reduced}
        self._parts = {parameter: _wire_part(name, parameter)
                       for name, parameter in names.items()}
        self._take(names, process_set_of(group))
        for prefix, module in modules.items():
            module.set_all_reduce_hook(functools.partial(self._reduce, prefix, groups[prefix]))

    def _part_of(self, parameter):
        return self._parts[parameter]

    def _shape_of(self, parameter):
        return (self._parts[parameter].numel(),)

    def _reduce(self, prefix, parameters, flat):
        """The hook of one module: `flat` holds its parameters' parts one after the other."""
        sizes = [self._parts[parameter].numel() for parameter in parameters]
        if flat.numel() != sum(sizes):
            raise ValueError(f"module {prefix!r} reduces {flat.numel()} elements of gradients, its "
                             f"parameters have {sum(sizes)}: where some get no gradient, call "
                             "set_reduce_scatter_unused_params(True) of the model; where others "
                             "take part than when the hook was registered, register it again; "
                             "apply fully_shard to one module at a time")
        if flat.is_cuda:  # It is of another stream's memory; tickets of cast copies do not know it.
            flat.record_stream(torch.cuda.current_stream(flat.device))
        finish(self.start(flat.split(sizes), parameters))


def register_fsdp_hook(model, group, compression=Compression.none, op=Average, name=""):
    """Makes every module of `model` that fully_shard was applied to reduce its gradients over
    `group`, the process group of the ranks that hold the same shards; returns an FSDPState.

    group: of the backend "scalecom", or all ranks. compression: as in DistributedOptimizer, with its
    rates by parameter name. op: Average or Sum. name: is put before the parameters' names; of two
    models in one process each needs its own, because residuals are kept by name. Call it when the model
    is sharded, outside of forward and backward passes, and again where parameters were frozen or
    thawed. To accumulate gradients over micro-batches, call model.set_requires_gradient_sync(False)
    before all but the last one's backward pass; set_requires_all_reduce(False) tells torch's own
    all-reduce alone: every backward pass would still reduce. On CPU tensors the backward pass waits for
    each module's reduction. Raises ValueError where torch reduces over the replicas itself (a mesh of
    both dimensions). What goes wrong between ranks ends backward() with HorovodInternalError.
    """
    return FSDPState(model, group, compression, op, name)
