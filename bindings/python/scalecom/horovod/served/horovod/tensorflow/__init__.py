"""horovod.tensorflow, served by scalecom: scalecom.tensorflow, and a refusal for what it lacks."""

from scalecom.horovod.missing import missing as _missing
from scalecom.tensorflow import *  # noqa: F401, F403

_BROADCAST = "call hvd.broadcast_variables(variables, root_rank=0) after the first step"
_REMEDIES = {
    "broadcast_global_variables": _BROADCAST,
    "BroadcastGlobalVariablesHook": _BROADCAST,
}
for _name, _remedy in _REMEDIES.items():
    globals().setdefault(_name, _missing(f"hvd.{_name}", _remedy))

# Horovod's submodules take their names from here.
from horovod.tensorflow import compression, elastic, functions, mpi_ops, util  # noqa: E402, F401
