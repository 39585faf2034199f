"""scalecom.tensorflow.keras for the legacy tf-keras, which tf.keras is where TF_USE_LEGACY_KERAS=1 is set."""

import inspect

import tensorflow as tf

from scalecom.keras import callbacks as fit
from scalecom.keras import elastic
from scalecom.keras import optimizer as keras_3
from scalecom.tensorflow import optimizer as tensorflow
from scalecom.tensorflow.compression import Compression

IS_USED = tf.keras.Model.__module__.startswith("tf_keras")


def callback(kind):
    """A callback of Keras 3 as one of tf-keras, which asks it some things more."""
    if not IS_USED:
        return kind
    return type(kind.__name__, (kind, tf.keras.callbacks.Callback), {
        "__doc__": kind.__doc__, "__module__": "scalecom.tensorflow.keras.callbacks",
        "_chief_worker_only": None, "_supports_tf_logs": False})


FIT = {name: callback(getattr(fit, name)) for name in fit.__all__}
ELASTIC = {name: callback(getattr(elastic, name)) if name.endswith("Callback") else getattr(elastic, name)
           for name in elastic.__all__}


def _as_in_keras_3(function):
    """function(arguments by name) as a function whose arguments have the order of its namesake for Keras 3."""
    order = inspect.signature(getattr(keras_3, function.__name__))

    def ordered(*arguments, **named):
        given = order.bind(*arguments, **named).arguments
        return function(**{name: value for name, value in given.items() if value is not None})

    ordered.__name__, ordered.__doc__, ordered.__signature__ = function.__name__, function.__doc__, order
    return ordered


@_as_in_keras_3
def DistributedOptimizer(**distributed):
    """scalecom.tensorflow.DistributedOptimizer, for optimizers of tf-keras."""
    return tensorflow.DistributedOptimizer(**distributed)


@_as_in_keras_3
def PartialDistributedOptimizer(local_layers=None, **distributed):
    """As DistributedOptimizer; the gradients of the layers `local_layers`, one or a list, stay this rank's own."""
    optimizer = tensorflow.DistributedOptimizer(**distributed)
    optimizer._scalecom.register_local_layers(local_layers)
    return optimizer


def load_model(filepath, custom_optimizers=None, custom_objects=None, compression=Compression.none,
               legacy_opts=False, **distributed):
    """tf.keras.models.load_model() of tf-keras, with the model's optimizer made distributed.

    custom_optimizers: classes of optimizers beside Keras's own. compression and `distributed`: arguments of
    DistributedOptimizer. legacy_opts is Horovod's. Files of tf-keras have no residuals.
    """
    known = {kind.__name__: kind for kind in custom_optimizers or ()}
    model = tf.keras.models.load_model(filepath, custom_objects={**known, **(custom_objects or {})})
    if getattr(model, "optimizer", None) is not None:
        DistributedOptimizer(model.optimizer, compression=compression, **distributed)
    return model
