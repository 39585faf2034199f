"""Served by scalecom."""

from scalecom.exceptions import (HorovodInternalError, HorovodVersionMismatchError,
                                 HostsUpdatedInterrupt)

__all__ = ["HorovodInternalError", "HorovodVersionMismatchError", "HostsUpdatedInterrupt"]
