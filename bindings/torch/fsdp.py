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
import math

from scalecom.torch import mpi_ops
from scalecom.torch.compression import Compression
from scalecom.torch.ddp import HookState, finish, process_set_of


def _own_parameters(module, prefix, sharded):
    """(name, parameter) of a module in the order in which fully_shard lays gradients out: submodules'
    first, without those in `sharded`."""
    for name, child in module.named_children():
        if child not in sharded:
            yield from _own_parameters(child, f"{prefix}{name}.", sharded)
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter


def _wire_elements(name, parameter):
    """Of the parameter's part in what the reduce-scatter leaves here, with padding."""
    mesh = parameter.device_mesh
    placement = parameter.placements[0]
    if mesh.ndim != 1 or not placement.is_shard():
        dimensions = ", ".join(mesh.mesh_dim_names or map(str, range(mesh.ndim)))
        raise ValueError(f"parameter {name} lies on the mesh of dimensions ({dimensions}) as "
                         f"{parameter.placements}; needed is one that is sharded: give fully_shard "
                         "the mesh's shard dimension alone, mesh=mesh[\"shard\"], of size 1 where "
                         "the model is only replicated")
    ranks = mesh.size()
    if placement.dim > 0:  # Which torch then wants to be a multiple of the ranks.
        return parameter.numel() // ranks
    return math.ceil(parameter.shape[0] / ranks) * math.prod(parameter.shape[1:])


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
        sharded = set(modules.values())
        groups = {prefix: {full: parameter for full, parameter in _own_parameters(
            module, f"{prefix}." if prefix else "", sharded)
            if parameter.requires_grad and isinstance(parameter, DTensor)}
            for prefix, module in modules.items()}
        self._elements = {parameter: _wire_elements(full, parameter)
                          for of_module in groups.values()
                          for full, parameter in of_module.items()}
        self._take({full: parameter for full, parameter in model.named_parameters()
                    if parameter in self._elements}, process_set_of(group))
        for prefix, module in modules.items():
            module.set_all_reduce_hook(functools.partial(
                self._reduce, prefix, list(groups[prefix].values())))

    def _shape_of(self, parameter):
        return (self._elements[parameter],)

    def _reduce(self, prefix, parameters, flat):
        """The hook of one module: `flat` holds its parameters' parts one after the other."""
        sizes = [self._elements[parameter] for parameter in parameters]
        if flat.numel() != sum(sizes):
            raise ValueError(f"module {prefix!r} reduces {flat.numel()} elements of gradients, its "
                             f"parameters have {sum(sizes)}: where some get no gradient, call "
                             "set_reduce_scatter_unused_params(True) of the model; where others "
                             "take part than when the hook was registered, register it again; "
                             "apply fully_shard to one module at a time")
        finish(self.start(flat.split(sizes), [self._gradients[parameter]
                                              for parameter in parameters]))


def register_fsdp_hook(model, group, compression=Compression.none, op=mpi_ops.Average, name=""):
    """Makes every module of `model` that fully_shard was applied to reduce its gradients over
    `group`, the process group of the ranks that hold the same shards; returns an FSDPState.

    group: of the backend "scalecom", or all ranks. compression: as in DistributedOptimizer, with its
    rates by parameter name. op: Average or Sum. name: is put before the parameters' names; of two
    models in one process each needs its own, because residuals are kept by name. Call it when the model
    is sharded, outside of forward and backward passes, and again where parameters were frozen or
    thawed. On CPU tensors the backward pass waits for each module's reduction. Raises ValueError where
    torch reduces over the replicas itself (a mesh of both dimensions). What goes wrong between ranks
    ends backward() with HorovodInternalError.
    """
    return FSDPState(model, group, compression, op, name)
