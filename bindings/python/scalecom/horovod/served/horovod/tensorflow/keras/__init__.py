"""horovod.tensorflow.keras, served by scalecom.tensorflow.keras: for Keras 3."""

from scalecom.tensorflow.keras import *  # noqa: F401, F403

from horovod.tensorflow.keras import callbacks, elastic  # noqa: E402, F401
