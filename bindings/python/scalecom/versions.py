"""A framework's version against those that are known to work."""

import re
import warnings


def warn_outside(first, last, version, framework, advice):
    """Warns of a version that is not from `first` to `last`, each (major, minor), in the name of who imports the
    adapter."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not first <= tuple(map(int, match.groups())) <= last:
        warnings.warn(f"{framework} {version} is here; {advice}", stacklevel=4)
