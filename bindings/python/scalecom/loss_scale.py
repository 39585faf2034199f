"""Loss scaling beside Keras optimizers whose gradients are reduced."""


class NotInsideLossScale:
    """Of an optimizer's class: refuses to become the inner one of a LossScaleOptimizer, which calls it
    only where this rank's own gradients are finite, so that ranks would reduce unequal numbers of times."""

    def __setattr__(self, name, value):
        # A LossScaleOptimizer sets it, as the constructor did before.
        if name == "loss_scale_factor" and "_scalecom" in self.__dict__:
            raise ValueError("a distributed optimizer is to be inside a LossScaleOptimizer, as Keras wraps "
                             "it for mixed_float16: give keras.optimizers.LossScaleOptimizer(optimizer) to "
                             "DistributedOptimizer instead, so that all ranks skip the same steps")
        super().__setattr__(name, value)
