"""That of scalecom.keras."""

from scalecom.keras.elastic import *  # noqa: F401, F403
