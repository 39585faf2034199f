"""Served by scalecom: the names of horovod.torch."""

from horovod.torch import *  # noqa: F401, F403

from horovod.common.basics import HorovodBasics  # noqa: E402
from horovod.common.util import (gpu_available, handle_average_backwards_compatibility,  # noqa: E402, F401
                                 num_rank_is_power_2)

_basics = HorovodBasics()
