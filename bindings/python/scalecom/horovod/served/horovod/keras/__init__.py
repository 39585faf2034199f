"""horovod.keras, served by scalecom.keras: for Keras 3; where TF_USE_LEGACY_KERAS=1 is set, by
scalecom.tensorflow.keras, for the legacy tf-keras too, to which programs give these names as well."""

import os as _os

import keras as _keras

# As TensorFlow reads it.
_has_legacy = (_os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")
               and _keras.backend.backend() == "tensorflow")
if _has_legacy:
    from scalecom.tensorflow.keras import *  # noqa: F401, F403
else:
    from scalecom.keras import *  # noqa: F401, F403

from horovod.keras import callbacks, elastic  # noqa: E402, F401
