"""The names of Horovod 0.28.1 that its users have in horovod.tensorflow, horovod.keras and
horovod.tensorflow.keras, with the arguments of functions in their order; and which of them scalecom has
otherwise, and why."""

import inspect

_BASICS = """
    init shutdown is_initialized start_timeline stop_timeline size local_size cross_size rank local_rank cross_rank
    mpi_threads_supported mpi_enabled mpi_built gloo_enabled gloo_built nccl_built ddl_built ccl_built cuda_built
    rocm_built global_process_set Average Sum Compression elastic
"""

_REDUCING = "device_dense device_sparse compression sparse_as_dense"

TENSORFLOW = {
    **dict.fromkeys(f"{_BASICS} is_homogeneous Adasum Min Max Product".split()),
    "ProcessSet": "ranks_or_comm",
    "add_process_set": "process_set",
    "remove_process_set": "process_set",
    "allreduce": "tensor average device_dense device_sparse compression op prescale_factor postscale_factor name "
                 "process_set ignore_name_scope",
    "grouped_allreduce": "tensors average device_dense device_sparse compression op prescale_factor "
                         "postscale_factor process_set ignore_name_scope name",
    "reducescatter": "tensor device_dense compression op name process_set ignore_name_scope prescale_factor "
                     "postscale_factor",
    "grouped_reducescatter": "tensors device_dense compression op process_set prescale_factor postscale_factor",
    "allgather": "tensor name ignore_name_scope process_set",
    "grouped_allgather": "tensors name ignore_name_scope process_set",
    "broadcast": "tensor root_rank name ignore_name_scope process_set",
    "broadcast_": "variables root_rank name process_set",
    "alltoall": "tensor splits name ignore_name_scope process_set",
    "join": "",
    "size_op": "process_set_id name",
    "process_set_included_op": "process_set_id name",
    "local_size_op": "name",
    "rank_op": "name",
    "local_rank_op": "name",
    "broadcast_variables": "variables root_rank process_set inplace",
    "broadcast_object": "obj root_rank session name process_set",
    "broadcast_object_fn": "root_rank session name process_set",
    "allgather_object": "obj session name process_set",
    "broadcast_global_variables": "root_rank",
    "BroadcastGlobalVariablesHook": "root_rank device",
    "DistributedOptimizer": f"optimizer name use_locking {_REDUCING} backward_passes_per_step op "
                            "gradient_predivide_factor average_aggregated_gradients num_groups groups process_set "
                            "scale_local_gradients",
    "DistributedGradientTape": f"gradtape {_REDUCING} op gradient_predivide_factor num_groups groups process_set "
                               "scale_local_gradients",
    "PartialDistributedGradientTape": f"gradtape {_REDUCING} op gradient_predivide_factor num_groups groups "
                                      "process_set local_layers scale_local_gradients",
    "SyncBatchNormalization": "fused",
    "elastic.run": "func",
    "elastic.TensorFlowKerasState": "model optimizer backend",
    "elastic.TensorFlowState": "variables session",
    **dict.fromkeys(["Compression.none.compress", "Compression.fp16.compress"], "tensor"),
    **dict.fromkeys(["Compression.none.decompress", "Compression.fp16.decompress"], "tensor ctx"),
}

TAPE = {
    "gradient": "target sources output_gradients use_generic_names",
    "get_local_and_global_gradients": "target sources output_gradients use_generic_names",
    "register_local_source": "source",
}

_KERAS = {
    **dict.fromkeys(_BASICS.split()),
    "allreduce": "value name average prescale_factor postscale_factor op compression",
    "allgather": "value name",
    "broadcast": "value root_rank name",
    "reducescatter": "value name op",
    "load_model": "filepath custom_optimizers custom_objects compression legacy_opts",
    "broadcast_global_variables": "root_rank",
    "callbacks.BroadcastGlobalVariablesCallback": "root_rank device local_variables",
    "callbacks.MetricAverageCallback": "device",
    "callbacks.LearningRateScheduleCallback": "initial_lr multiplier start_epoch end_epoch staircase "
                                              "momentum_correction steps_per_epoch",
    "callbacks.LearningRateWarmupCallback": "initial_lr warmup_epochs momentum_correction steps_per_epoch verbose",
    "callbacks.BestModelCheckpoint": "monitor verbose mode save_freq",
    "elastic.run": "func",
    "elastic.KerasState": "model optimizer",
    "elastic.CommitStateCallback": "state batches_per_commit",
    "elastic.UpdateBatchStateCallback": "state",
    "elastic.UpdateEpochStateCallback": "state",
}

KERAS = {
    **_KERAS,
    "Adasum": None,
    "DistributedOptimizer": f"optimizer name {_REDUCING} gradient_predivide_factor op num_groups groups",
    "PartialDistributedOptimizer": f"optimizer name {_REDUCING} gradient_predivide_factor op groups process_set "
                                   "local_layers scale_local_gradients",
}

TENSORFLOW_KERAS = {
    **_KERAS,
    **dict.fromkeys("ProcessSet add_process_set remove_process_set".split()),
    "DistributedOptimizer": f"optimizer name {_REDUCING} gradient_predivide_factor op backward_passes_per_step "
                            "average_aggregated_gradients num_groups groups process_set scale_local_gradients",
}

# Horovod's own tools, which its package happens to show: the served horovod.tensorflow has them, scalecom's not.
ABSENT = ("check_extension split_list gpu_available handle_average_backwards_compatibility check_num_rank_power_of_2 "
          "LocalGradientAggregationHelper vars_to_refs refs_to_vars").split()

# Arguments that are there in another order, or are not enough.
OTHERWISE = {
    "horovod.keras.broadcast_global_variables": "the model says which variables: Keras 3 has no global ones",
    "horovod.tensorflow.keras.broadcast_global_variables": "as of horovod.keras",
    "horovod.keras.callbacks.BestModelCheckpoint": "a path may be given, in the first place",
    "horovod.tensorflow.keras.callbacks.BestModelCheckpoint": "as of horovod.keras",
    "horovod.tensorflow.SyncBatchNormalization": "what is without a name goes to the layer of Keras",
    "horovod.tensorflow.keras.DistributedOptimizer": "one function for three of Horovod's with other orders",
}


def _find(module, name):
    for part in name.split("."):
        assert part in getattr(module, "__all__", [part]), f"{part} is not in __all__"
        module = getattr(module, part)
    return module


def _takes(found, wanted):
    """Whether it takes these arguments in this order, and whether it takes them by their names."""
    own = inspect.signature(found).parameters
    needed = {one.name for one in own.values() if one.default is one.empty and one.kind < one.VAR_POSITIONAL}
    is_open = any(one.kind is one.VAR_KEYWORD for one in own.values())
    return (list(own)[:len(wanted)] == wanted and needed <= set(wanted)), is_open or set(wanted) <= set(own)


def problems_of(module, horovods, table):
    """What differs from a table above, and is not said to do so: a list of texts."""
    problems = [f"{horovods}.{name} is there: it is not to be in ABSENT" for name in ABSENT if hasattr(module, name)]
    for name, arguments in table.items():
        full = f"{horovods}.{name}"
        try:
            found = _find(module, name)
        except (AttributeError, AssertionError) as error:
            problems.append(f"{full}: {error}")
            continue
        if arguments is not None:
            is_same, by_name = _takes(found, arguments.split())
            if is_same == (full in OTHERWISE) or not by_name:
                problems.append(f"{full}{inspect.signature(found)} is to take {arguments!r}, or to be in OTHERWISE")
    return problems
