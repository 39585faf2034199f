"""The exceptions of every adapter, named as Horovod names them."""


class HorovodInternalError(RuntimeError):
    """A collective failed: ranks disagree, a rank is lost, or the session was shut down. ``code``
    tells which (docs/errors.md); None where the program itself raised it."""

    def __init__(self, *args, code=None):
        super().__init__(*args)
        self.code = code


class HostsUpdatedInterrupt(RuntimeError):
    """The set of hosts changed. ``skip_sync``: the state needs no synchronisation."""

    def __init__(self, skip_sync=False):
        super().__init__("the hosts of the job changed")
        self.skip_sync = skip_sync


class HorovodVersionMismatchError(ImportError):
    """A framework is here in another version than the one it was built for. scalecom is built for
    none and does not raise it."""

    def __init__(self, name, version, installed_version):
        super().__init__(f"{name} {version} is here, and {installed_version} was built for: install "
                         "the one or build for the other", name=name)
        self.version = version
        self.installed_version = installed_version
