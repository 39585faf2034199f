"""Loss scaling beside Keras optimizers whose gradients are reduced."""


class NotInsideLossScale:
    """Of an optimizer's class: refuses to become the inner one of a LossScaleOptimizer, which calls it
    only where this rank's own gradients are finite, so that ranks would reduce unequal numbers of times."""

    @property
    def loss_scale_factor(self):
        return self.__dict__.get("loss_scale_factor")

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        if "_scalecom" in self.__dict__:  # A LossScaleOptimizer sets it, as the constructor did before.
            raise ValueError("a distributed optimizer is to be inside a LossScaleOptimizer, as Keras wraps "
                             "it for mixed_float16: give keras.optimizers.LossScaleOptimizer(optimizer) to "
                             "DistributedOptimizer instead, so that all ranks skip the same steps")
        self.__dict__["loss_scale_factor"] = factor
