"""horovod.tensorflow.keras, served by scalecom.tensorflow.keras."""

from scalecom.tensorflow.keras import *  # noqa: F401, F403

from horovod.tensorflow.keras import callbacks, elastic  # noqa: E402, F401
