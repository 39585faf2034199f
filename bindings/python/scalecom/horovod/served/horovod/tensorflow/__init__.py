"""horovod.tensorflow, served by scalecom."""

from scalecom.tensorflow import *  # noqa: F401, F403

# Horovod's submodules take their names from here.
from horovod.tensorflow import (compression, elastic, functions, mpi_ops,  # noqa: E402, F401
                                util)
