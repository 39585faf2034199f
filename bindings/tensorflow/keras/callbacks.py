"""Those of scalecom.keras."""

from scalecom.keras.callbacks import (BestModelCheckpoint, BroadcastGlobalVariablesCallback,
                                      LearningRateScheduleCallback, LearningRateWarmupCallback,
                                      MetricAverageCallback)

__all__ = ["BestModelCheckpoint", "BroadcastGlobalVariablesCallback", "LearningRateScheduleCallback",
           "LearningRateWarmupCallback", "MetricAverageCallback"]
