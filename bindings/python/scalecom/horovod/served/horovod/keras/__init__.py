"""horovod.keras, served by scalecom.keras: for Keras 3."""

from scalecom.keras import *  # noqa: F401, F403

from horovod.keras import callbacks, elastic  # noqa: E402, F401
