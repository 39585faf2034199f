"""Claims about process sets, of which there is one, and about what init() takes. Each function is
called on every rank of a job, in this order."""

import pytest
import torch

import scalecom.torch as hvd


def the_global_process_set_is_every_rank():
    everyone = hvd.global_process_set
    ranks = list(range(hvd.size()))
    assert everyone.process_set_id == 0 and everyone.ranks == ranks
    assert (everyone.size(), everyone.rank()) == (hvd.size(), hvd.rank()) and everyone.included()
    assert str(everyone) == f"ProcessSet(process_set_id=0, ranks={ranks})"


def every_call_takes_the_global_process_set():
    everyone = {"process_set": hvd.global_process_set}
    ranks, ones = hvd.size(), torch.ones(hvd.size())
    assert hvd.allreduce(ones, op=hvd.Sum, **everyone).sum() == ranks * ranks
    assert hvd.synchronize(hvd.allreduce_async(ones, **everyone)).sum() == ranks
    assert hvd.allreduce_(ones.clone(), **everyone).sum() == ranks
    assert hvd.synchronize(hvd.allreduce_async_(ones.clone(), **everyone)).sum() == ranks
    assert hvd.grouped_allreduce([ones, ones], **everyone)[1].sum() == ranks
    assert hvd.allgather(ones, **everyone).sum() == ranks * ranks
    assert hvd.synchronize(hvd.allgather_async(ones, **everyone)).sum() == ranks * ranks
    assert hvd.broadcast(ones, 0, **everyone).sum() == ranks
    assert hvd.broadcast_(ones.clone(), 0, **everyone).sum() == ranks
    assert hvd.alltoall(ones, **everyone).sum() == ranks
    assert hvd.reducescatter(ones, **everyone).sum() == 1
    assert hvd.broadcast_object(hvd.rank(), 0, **everyone) == 0
    assert hvd.allgather_object(hvd.rank(), **everyone) == list(range(ranks))
    hvd.barrier(**everyone)
    parameter = torch.nn.Parameter(ones.clone())
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([parameter], lr=1.0), **everyone)
    (parameter * (hvd.rank() + 1)).sum().backward()
    optimizer.step()
    assert torch.allclose(parameter, ones - (ranks + 1) / 2)


def other_process_sets_are_refused():
    last = hvd.ProcessSet([hvd.size() - 1])
    assert last.ranks == [hvd.size() - 1]
    assert last.size() is last.rank() is last.included() is last.process_set_id is None
    with pytest.raises(ValueError, match="process_set is ProcessSet.*global_process_set"):
        hvd.allreduce(torch.ones(1), process_set=last)
    if hvd.size() > 1:
        with pytest.raises(NotImplementedError, match="global process set only"):
            hvd.add_process_set(last)
    with pytest.raises(ValueError, match="exists"):
        hvd.add_process_set(list(reversed(range(hvd.size()))))
    with pytest.raises(ValueError, match="the job has 0 to"):
        hvd.add_process_set([0, hvd.size()])
    for ranks in ([0, 0], [-1], [0.5], "01", 3, [True]):
        with pytest.raises(ValueError, match="ranks is"):
            hvd.ProcessSet(ranks)
    assert hvd.remove_process_set(hvd.global_process_set) is False
    with pytest.raises(ValueError, match="was not added"):
        hvd.remove_process_set(last)


class _Communicator:
    """What init() asks of an mpi4py communicator."""

    def __init__(self, rank, size):
        self.Get_rank = lambda: rank
        self.Get_size = lambda: size


def init_again_checks_its_arguments_and_keeps_the_session():
    hvd.init(comm=list(range(hvd.size())), process_sets=[])
    hvd.init(comm=_Communicator(hvd.rank(), hvd.size()), process_sets="dynamic")
    for comm in ([hvd.size()], _Communicator(hvd.rank(), hvd.size() + 1), 3):
        with pytest.raises(ValueError, match="comm "):
            hvd.init(comm=comm)
    for process_sets in ("static", [hvd.ProcessSet([0])]):
        with pytest.raises(ValueError, match="process_sets is"):
            hvd.init(process_sets=process_sets)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == hvd.size()
