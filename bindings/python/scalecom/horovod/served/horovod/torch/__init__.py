"""horovod.torch, served by scalecom.torch."""

from scalecom.torch import *  # noqa: F401, F403

from horovod.common.util import check_extension  # noqa: E402, F401

# Horovod's submodules take their names from here.
from horovod.torch import (compression, functions, mpi_ops, optimizer,  # noqa: E402, F401
                           sync_batch_norm)
import horovod.torch.elastic as _elastic  # noqa: E402, F401  In the place of scalecom's.
