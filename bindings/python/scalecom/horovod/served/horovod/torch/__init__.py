"""horovod.torch, served by scalecom: scalecom.torch, and a refusal for what it lacks."""

from scalecom.horovod.missing import missing as _missing
from scalecom.torch import *  # noqa: F401, F403

_REMEDIES = {
    "grouped_allgather": "call hvd.allgather for each tensor",
    "grouped_allgather_async": "call hvd.allgather_async for each tensor",
    "grouped_reducescatter": "call hvd.reducescatter for each tensor",
    "grouped_reducescatter_async": "call hvd.reducescatter_async for each tensor",
    "join": "give every rank the same number of batches: DistributedSampler does",
    "sparse_allreduce_async": "give DistributedOptimizer sparse_as_dense=True, or reduce "
                              "tensor.to_dense()",
    "SyncBatchNorm": "use torch.nn.BatchNorm1d to 3d, whose statistics are each rank's own",
}
for _name, _remedy in _REMEDIES.items():
    globals().setdefault(_name, _missing(f"hvd.{_name}", _remedy))

# Horovod's submodules take their names from here.
from horovod.torch import (compression, elastic, functions, mpi_ops,  # noqa: E402, F401
                           optimizer, sync_batch_norm)
