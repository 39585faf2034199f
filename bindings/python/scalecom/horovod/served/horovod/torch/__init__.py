"""horovod.torch, served by scalecom.torch."""

from scalecom.torch import *  # noqa: F401, F403

# Horovod's submodules take their names from here.
from horovod.torch import (compression, functions, mpi_ops, optimizer,  # noqa: E402, F401
                           sync_batch_norm)
