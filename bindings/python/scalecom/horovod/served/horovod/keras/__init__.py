"""horovod.keras, served by scalecom.keras; on TensorFlow by scalecom.tensorflow.keras, which has the legacy
tf-keras too where that is tf.keras."""

import keras as _keras

_is_on_tensorflow = _keras.backend.backend() == "tensorflow"
if _is_on_tensorflow:
    from scalecom.tensorflow.keras import *  # noqa: F401, F403
else:
    from scalecom.keras import *  # noqa: F401, F403

from horovod.keras import callbacks, elastic  # noqa: E402, F401
