"""The exceptions of every adapter, named as Horovod names them."""


class HorovodInternalError(RuntimeError):
    """A collective failed: ranks disagree, a rank is lost, or the session was shut down."""


class HostsUpdatedInterrupt(RuntimeError):
    """The set of hosts changed. ``skip_sync``: the state needs no synchronisation."""

    def __init__(self, skip_sync=False):
        super().__init__("the hosts of the job changed")
        self.skip_sync = skip_sync


class HorovodVersionMismatchError(ImportError):
    """The library and the Python package are of different versions."""
