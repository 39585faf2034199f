"""Which versions of JAX are known to work."""

from scalecom.versions import warn_outside

TESTED = "0.10 and 0.11"


def warn_of_version(version):
    """Warns of a JAX outside of what was tested."""
    warn_outside((0, 10), (0, 11), version, "JAX",
                 f"scalecom.jax was tested with {TESTED}: if something fails, install one of them")
