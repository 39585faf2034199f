"""Which TensorFlows are known to work."""

from scalecom.versions import warn_outside

TESTED = "2.21, and made for 2.16 and later"


def warn_of_version(version):
    """Warns of a TensorFlow outside of what was tested."""
    warn_outside((2, 16), (2, 21), version, "TensorFlow",
                 f"scalecom.tensorflow was tested with {TESTED}: if something fails, install 2.21")
