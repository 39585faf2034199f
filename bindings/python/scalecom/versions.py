"""A framework's version against those that are known to work."""

import re
import warnings
from typing import NamedTuple


class Tested(NamedTuple):
    framework: str
    first: tuple  # (major, minor)
    last: tuple
    words: str  # For people: those that were tested.
    remedy: str


# By adapter.
TESTED = {
    "torch": Tested("PyTorch", (2, 1), (2, 14), "2.1, 2.4, 2.8, 2.11, 2.13 and 2.14", "install 2.13"),
    "jax": Tested("JAX", (0, 10), (0, 11), "0.10 and 0.11", "install one of them"),
    "tensorflow": Tested("TensorFlow", (2, 16), (2, 21), "2.16, 2.18, 2.20 and 2.21", "install 2.21"),
    "keras": Tested("Keras", (3, 10), (3, 15), "3.10, 3.12, 3.14 and 3.15", "install 3.15"),
}


def warn_of_version(adapter, version):
    """Warns of a version of the adapter's framework that is not from `first` to `last`, in the name of who
    imports the adapter, which calls this itself."""
    framework, first, last, words, remedy = TESTED[adapter]
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not first <= tuple(map(int, match.groups())) <= last:
        warnings.warn(f"{framework} {version} is here; scalecom.{adapter} was tested with {words}: if something "
                      f"fails, {remedy}", stacklevel=3)
