"""Those of scalecom.keras."""

from scalecom.keras.callbacks import *  # noqa: F401, F403
