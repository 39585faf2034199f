"""Claims about Horovod's names. Each function is called on every rank of a job, in this order."""

import importlib
import os

import pytest
import torch

import scalecom.horovod
import scalecom.torch as hvd
from programs import horovod_api


def horovod_torch_is_scalecom_torch():
    scalecom.horovod.install()
    served = importlib.import_module("horovod.torch")
    operations = importlib.import_module("horovod.torch.mpi_ops")
    assert served.elastic.run is hvd.elastic.run and served.elastic.sampler.ElasticSampler is (
        hvd.elastic.ElasticSampler)
    for name in set(hvd.__all__) - {"elastic"}:  # A package in Horovod.
        assert getattr(served, name) is getattr(hvd, name), name
        assert getattr(operations, name) is getattr(hvd, name), name
    assert served.allreduce(torch.ones(3), name="served", op=served.Sum).tolist() == [
        hvd.size()] * 3


def every_public_name_of_horovods_torch_is_there():
    scalecom.horovod.install()
    assert horovod_api.missing(horovod_api.COMMON) == []


def names_that_are_missing_import_and_say_so_when_called():
    scalecom.horovod.install()
    run_fn = importlib.import_module("horovod.common.elastic").run_fn
    assert not isinstance(3, run_fn)
    with pytest.raises(NotImplementedError, match="run_fn is not in this version"):
        run_fn(3)
    assert importlib.import_module("horovod.torch.elastic").run is hvd.elastic.run
    optimizers = importlib.import_module("horovod.torch.optimizer")
    for kind in (optimizers._DistributedOptimizer, optimizers._DistributedAdasumOptimizer):
        assert not isinstance(3, kind)
        with pytest.raises(NotImplementedError, match=f"{kind.__name__} is not in this.*hvd.DistributedOptimizer"):
            kind([])
    with pytest.raises(ModuleNotFoundError, match="'horovod.mxnet'.*serves horovod.torch"):
        importlib.import_module("horovod.mxnet")


def horovods_helpers_work():
    scalecom.horovod.install()
    util = importlib.import_module("horovod.common.util")
    assert util.split_list(list(range(8)), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [util.num_rank_is_power_2(n) for n in range(5)] == [False, True, True, False, True]
    assert util.is_iterable([]) and not util.is_iterable(3)
    assert util.extension_available("torch") and not util.extension_available("mxnet")
    assert util.mpi_built() == hvd.mpi_built()
    assert [util.is_version_greater_equal_than(one, "2.11.0") for one in ("2.11.0+cu130", "2.9.1", "3.0.0rc1")
            ] == [True, False, True]
    choose = util.get_average_backwards_compatibility_fun(hvd)
    assert (choose(None, None), choose(None, False), choose(hvd.Max, None)) == (hvd.Average, hvd.Sum, hvd.Max)
    with pytest.raises(ValueError, match="average"):
        choose(hvd.Sum, True)
    with pytest.raises(ImportError, match="horovod.mxnet"):
        util.check_extension("horovod.mxnet", "HOROVOD_WITH_MXNET", __file__, "mpi_lib")
    session = importlib.import_module("horovod.common.basics").HorovodBasics(__file__, "mpi_lib")
    assert (session.rank(), session.size()) == (hvd.rank(), hvd.size())
    session = importlib.import_module("horovod.torch.mpi_ops")._basics
    added = hvd.add_process_set([0]) if hvd.size() > 1 else hvd.global_process_set
    assert session._get_process_set_ids_and_ranks() == {0: list(range(hvd.size())),
                                                        added.process_set_id: [0]}
    hvd.remove_process_set(added)
    environment = importlib.import_module("horovod.runner.common.util.env")
    assert environment.get_env_rank_and_size() == (hvd.rank(), hvd.size())
    threads = importlib.import_module("horovod.runner.util.threads")
    results = []
    threads.in_thread(results.append, (3,)).join(10)
    assert results == [3]
    served = importlib.import_module("horovod.torch.compression")
    assert issubclass(served.FP16Compressor, served.Compressor)
    assert issubclass(served.BF16Compressor, served.Compressor)


def arguments_have_horovods_names():
    wire, context = hvd.Compression.fp16.compress(tensor=torch.ones(2))
    assert hvd.Compression.fp16.decompress(tensor=wire, ctx=context).dtype == torch.float32
    assert hvd.Compression.none.decompress(tensor=wire, ctx=None) is wire
    assert hvd.ProcessSet(ranks_or_comm=[1, 0]).ranks == [0, 1]


def exceptions_are_horovods():
    scalecom.horovod.install()
    served = importlib.import_module("horovod.common.exceptions")
    assert issubclass(served.HorovodInternalError, RuntimeError)
    assert served.HostsUpdatedInterrupt(True).skip_sync is True
    error = served.HorovodVersionMismatchError("torch", "2.1", "2.0")
    assert isinstance(error, ImportError)
    assert (error.name, error.version, error.installed_version) == ("torch", "2.1", "2.0")
    assert all(part in str(error) for part in ("torch", "2.1", "2.0"))


def variables_are_put_back_behind_env():
    scalecom.horovod.install()
    env = importlib.import_module("horovod.common.util").env
    os.environ["KEPT"] = "before"
    with env(KEPT="inside", ADDED="inside", PATH=None):
        assert os.environ["KEPT"] == os.environ["ADDED"] == "inside" and "PATH" in os.environ
    assert os.environ.pop("KEPT") == "before" and "ADDED" not in os.environ


def a_state_that_all_ranks_have_is_not_synchronised_again():
    layer = torch.nn.Linear(40, 40, bias=False)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1), layer.named_parameters(),
                                         compression=hvd.Compression.scalecom(rate=10))
    state = hvd.elastic.TorchState(layer, optimizer, sampler=hvd.elastic.ElasticSampler(range(8)), own=0)
    seen, owed = [], []

    @hvd.elastic.run
    def train(state):
        seen.append(state.own)
        if len(seen) > 3:
            return
        state.own = 10 * len(seen) + hvd.rank()
        layer(torch.ones(1, 40) * (hvd.rank() + 1)).sum().backward()
        optimizer.step()
        iter(state.sampler)  # As a loader begins.
        state.sampler.record_batch(0, 1)
        owed.append(hvd.compression_state()["weight"])
        # In the last one, one rank alone would skip it.
        raise hvd.HostsUpdatedInterrupt(len(seen) == 1 or len(seen) == 3 and hvd.rank() == 0)

    train(state)
    assert seen == [0, 10 + hvd.rank(), 20, 30], seen
    assert torch.equal(hvd.compression_state()["weight"], owed[-1])
    assert len(state.sampler.processed_indices) == min(8, 3 * hvd.size())
