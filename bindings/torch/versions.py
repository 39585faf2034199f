"""Which versions of PyTorch are known to work."""

import re
import warnings

TESTED = "2.11 and 2.13, and made for 2.1 and later"
_FIRST, _LAST = (2, 1), (2, 13)


def warn_of_version(version):
    """Warns of a PyTorch outside of what was tested."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not _FIRST <= tuple(map(int, match.groups())) <= _LAST:
        warnings.warn(f"PyTorch {version} is here; scalecom.torch was tested with {TESTED}: if "
                      "something fails, install 2.13", stacklevel=3)
