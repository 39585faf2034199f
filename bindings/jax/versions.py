"""Which versions of JAX are known to work."""

import re
import warnings

TESTED = "0.10 and 0.11"
_FIRST, _LAST = (0, 10), (0, 11)


def warn_of_version(version):
    """Warns of a JAX outside of what was tested."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not _FIRST <= tuple(map(int, match.groups())) <= _LAST:
        warnings.warn(f"JAX {version} is here; scalecom.jax was tested with {TESTED}: if something "
                      "fails, install one of them", stacklevel=3)
