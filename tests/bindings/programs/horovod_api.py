"""The public names of Horovod 0.28.1 by module, and which of them are not served."""

import importlib

_BASICS = """init shutdown is_initialized start_timeline stop_timeline size local_size cross_size rank local_rank
    cross_rank mpi_threads_supported mpi_enabled mpi_built gloo_enabled gloo_built nccl_built ddl_built
    ccl_built cuda_built rocm_built ProcessSet global_process_set add_process_set remove_process_set Average
    Sum"""
_OPS = _BASICS + " is_homogeneous Adasum Min Max Product join barrier handle_average_backwards_compatibility"
_REDUCE = """allreduce allreduce_async allreduce_ allreduce_async_ grouped_allreduce grouped_allreduce_async
    grouped_allreduce_ grouped_allreduce_async_ sparse_allreduce_async allgather allgather_async
    grouped_allgather grouped_allgather_async broadcast broadcast_async broadcast_ broadcast_async_ alltoall
    alltoall_async reducescatter reducescatter_async grouped_reducescatter grouped_reducescatter_async poll
    synchronize"""
_TENSORFLOW = _OPS + """ allgather grouped_allgather broadcast broadcast_ alltoall reducescatter
    grouped_reducescatter rank_op local_rank_op size_op local_size_op process_set_included_op
    check_num_rank_power_of_2"""
_OBJECTS = "broadcast_variables broadcast_object broadcast_object_fn allgather_object broadcast_global_variables"
_KERAS = _BASICS + """ Compression DistributedOptimizer PartialDistributedOptimizer broadcast_global_variables
    allreduce allgather broadcast reducescatter load_model callbacks elastic"""
_CALLBACKS = """BroadcastGlobalVariablesCallback MetricAverageCallback LearningRateScheduleCallback
    LearningRateWarmupCallback BestModelCheckpoint"""
_KERAS_ELASTIC = "KerasState run CommitStateCallback UpdateBatchStateCallback UpdateEpochStateCallback"

COMMON = {
    "horovod": "run __version__",
    "horovod.common.basics": "HorovodBasics",
    "horovod.common.elastic": "State ObjectState run_fn",
    "horovod.common.exceptions": """HorovodInternalError HostsUpdatedInterrupt HorovodVersionMismatchError
        get_version_mismatch_message""",
    "horovod.common.process_sets": """ProcessSet global_process_set add_process_set remove_process_set
        is_iterable""",
    "horovod.common.util": """EXTENSIONS check_extension extension_available gpu_available mpi_built gloo_built
        nccl_built ddl_built ccl_built env get_average_backwards_compatibility_fun num_rank_is_power_2
        split_list check_installed_version is_iterable is_version_greater_equal_than
        support_non_legacy_keras_optimizers get_ext_suffix get_extension_full_path""",
    "horovod.runner": "run",
    "horovod.torch": _OPS.replace("handle_average_backwards_compatibility", "") + _REDUCE + """ elastic
        Compression allgather_object broadcast_object broadcast_optimizer_state broadcast_parameters
        DistributedOptimizer SyncBatchNorm check_extension""",
    "horovod.torch.mpi_ops": _OPS + " " + _REDUCE + " HorovodInternalError gpu_available num_rank_is_power_2",
    "horovod.torch.elastic": "run TorchState ElasticSampler",
    "horovod.torch.elastic.sampler": "ElasticSampler",
    "horovod.torch.elastic.state": """TorchState StateHandler ModelStateHandler OptimizerStateHandler
        SamplerStateHandler get_handler_registry set_handler_registry""",
    "horovod.torch.compression": "Compression Compressor NoneCompressor FP16Compressor",
    "horovod.torch.functions": """broadcast_parameters broadcast_optimizer_state broadcast_object
        allgather_object""",
    "horovod.torch.optimizer": "DistributedOptimizer _DistributedOptimizer _DistributedAdasumOptimizer",
    "horovod.torch.sync_batch_norm": "SyncBatchNorm"}

TENSORFLOW = {
    "horovod.tensorflow": _TENSORFLOW + " " + _OBJECTS + """ elastic Compression allreduce grouped_allreduce
        SyncBatchNormalization BroadcastGlobalVariablesHook DistributedOptimizer DistributedGradientTape
        PartialDistributedGradientTape vars_to_refs refs_to_vars check_extension gpu_available split_list
        LocalGradientAggregationHelper""",
    "horovod.tensorflow.mpi_ops": _TENSORFLOW + " _allreduce _executing_eagerly",
    "horovod.tensorflow.functions": _OBJECTS,
    "horovod.tensorflow.compression": "Compression Compressor NoneCompressor FP16Compressor",
    "horovod.tensorflow.util": "vars_to_refs refs_to_vars _executing_eagerly _make_subgraph _cache",
    "horovod.tensorflow.elastic": "run TensorFlowKerasState TensorFlowState",
    "horovod.tensorflow.sync_batch_norm": "SyncBatchNormalization",
    "horovod.tensorflow.gradient_aggregation": "LocalGradientAggregationHelper",
    **{f"{module}{part}": names for module in ("horovod.keras", "horovod.tensorflow.keras")
       for part, names in (("", _KERAS), (".callbacks", _CALLBACKS), (".elastic", _KERAS_ELASTIC))}}

# What Horovod's own build, and its own states, use: docs/howto/migrate-from-horovod.md has them.
LEFT_OUT = {"get_ext_suffix", "get_extension_full_path", "StateHandler", "ModelStateHandler",
            "OptimizerStateHandler", "SamplerStateHandler", "get_handler_registry", "set_handler_registry"}


def missing(modules):
    """["module.name"] of what is neither served nor left out."""
    return [f"{module}.{name}" for module, text in modules.items() for name in text.split()
            if name not in LEFT_OUT and not hasattr(importlib.import_module(module), name)]
