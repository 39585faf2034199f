"""Served by scalecom: the names of horovod.tensorflow."""

from horovod.tensorflow import *  # noqa: F401, F403

from horovod.common.basics import HorovodBasics  # noqa: E402
from horovod.common.util import handle_average_backwards_compatibility  # noqa: E402, F401
from horovod.common.util import num_rank_is_power_2 as check_num_rank_power_of_2  # noqa: E402, F401
from horovod.tensorflow.util import _executing_eagerly  # noqa: E402, F401
from scalecom.tensorflow import Sum, allreduce, global_process_set  # noqa: E402

_basics = HorovodBasics()


def _allreduce(tensor, name=None, op=Sum, prescale_factor=1.0, postscale_factor=1.0, ignore_name_scope=False,
               process_set=global_process_set):
    """allreduce() as programs have it that take Horovod's own function: a sum by default."""
    return allreduce(tensor, op=op, prescale_factor=prescale_factor, postscale_factor=postscale_factor, name=name,
                     process_set=process_set, ignore_name_scope=ignore_name_scope)
