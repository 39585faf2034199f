"""scalecom: collective communication for distributed training with ScaleCom compression.

Framework adapters: ``import scalecom.torch as hvd``. This package alone needs no framework.
"""

from scalecom._library import version as _version
from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)

__version__ = _version()

__all__ = ["HorovodInternalError", "HorovodVersionMismatchError", "HostsUpdatedInterrupt",
           "__version__"]
