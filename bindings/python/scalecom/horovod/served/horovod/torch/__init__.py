"""horovod.torch, served by scalecom: scalecom.torch, and a refusal for what it lacks."""

from scalecom.horovod.missing import missing as _missing
from scalecom.torch import *  # noqa: F401, F403

_REMEDIES = {
    "join": "give every rank the same number of batches: DistributedSampler does",
}
for _name, _remedy in _REMEDIES.items():
    globals().setdefault(_name, _missing(f"hvd.{_name}", _remedy))

# Horovod's submodules take their names from here.
from horovod.torch import (compression, functions, mpi_ops, optimizer,  # noqa: E402, F401
                           sync_batch_norm)
