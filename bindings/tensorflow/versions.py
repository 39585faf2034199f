"""Which TensorFlows are known to work."""

import re
import warnings

TESTED = "2.21, and made for 2.16 and later"
_FIRST, _LAST = (2, 16), (2, 21)


def warn_of_version(version):
    """Warns of a TensorFlow outside of what was tested."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not _FIRST <= tuple(map(int, match.groups())) <= _LAST:
        warnings.warn(f"TensorFlow {version} is here; scalecom.tensorflow was tested with {TESTED}: "
                      "if something fails, install 2.21", stacklevel=3)
