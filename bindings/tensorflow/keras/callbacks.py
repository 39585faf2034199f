"""Those of scalecom.keras, for the Keras that tf.keras is."""

from scalecom.tensorflow.keras.legacy import FIT

globals().update(FIT)

__all__ = list(FIT)
