"""Which versions of PyTorch are known to work."""

from scalecom.versions import warn_outside

TESTED = "2.11 and 2.13, and made for 2.1 and later"


def warn_of_version(version):
    """Warns of a PyTorch outside of what was tested."""
    warn_outside((2, 1), (2, 13), version, "PyTorch",
                 f"scalecom.torch was tested with {TESTED}: if something fails, install 2.13")
