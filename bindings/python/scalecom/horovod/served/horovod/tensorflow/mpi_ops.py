"""Served by scalecom: the names of horovod.tensorflow."""

from horovod.tensorflow import *  # noqa: F401, F403

from horovod.common.basics import HorovodBasics  # noqa: E402
from horovod.common.util import handle_average_backwards_compatibility  # noqa: E402, F401
from horovod.common.util import num_rank_is_power_2 as check_num_rank_power_of_2  # noqa: E402, F401

_basics = HorovodBasics()
