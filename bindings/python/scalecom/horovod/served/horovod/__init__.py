"""The package horovod, served by scalecom."""

from horovod.runner import run

__version__ = "0.28.1"  # The Horovod whose interface this is.

__all__ = ["__version__", "run"]
