"""That of scalecom.keras, for the Keras that tf.keras is."""

from scalecom.tensorflow.keras.legacy import ELASTIC

globals().update(ELASTIC)

__all__ = list(ELASTIC)
