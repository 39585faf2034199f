"""horovod.tensorflow, served by scalecom."""

from scalecom.tensorflow import *  # noqa: F401, F403

from horovod.common.util import (check_extension, gpu_available,  # noqa: E402, F401
                                 handle_average_backwards_compatibility, split_list)
from horovod.common.util import num_rank_is_power_2 as check_num_rank_power_of_2  # noqa: E402, F401
from horovod.tensorflow.util import (_cache, _executing_eagerly, _make_subgraph,  # noqa: E402, F401
                                     refs_to_vars, vars_to_refs)

# Horovod's submodules take their names from here.
from horovod.tensorflow import (compression, elastic, functions, gradient_aggregation,  # noqa: E402, F401
                                mpi_ops, sync_batch_norm, util)
from horovod.tensorflow.gradient_aggregation import LocalGradientAggregationHelper  # noqa: E402, F401
