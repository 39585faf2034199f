"""Claims about process sets and about what init() takes. Each function is
called on every rank of a job, in this order."""

import contextlib
import ctypes
import signal
import threading

import pytest
import torch

import scalecom.torch as hvd
from scalecom import _library
from scalecom._library import lib
from scalecom.process_sets import connect_process_set


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


def what_an_exchange_leaves_out_or_gives_wrongly_is_told():
    ranks = list(range(hvd.size()))
    if len(ranks) == 1:  # Meets nobody.
        return
    with pytest.raises(ValueError, match="not put what place 1 gave.*for each of"):
        connect_process_set(ranks, lambda mine, limit_s: [mine])
    told = []

    def put_wrongly(_, mine, count, limit_s, everyone):
        for place, theirs in ((0, None), (len(ranks), b"12345")):
            told.append((lib.scalecom_exchanged_put(everyone, place, theirs, 5), lib.scalecom_last_error()))
        return 1

    number = ctypes.c_int32()
    assert lib.scalecom_process_set_connect((ctypes.c_int32 * len(ranks))(*ranks), len(ranks),
                                            _library.Exchange(put_wrongly), None, ctypes.byref(number))
    (bytes_code, bytes_text), (place_code, place_text) = told
    assert bytes_code == place_code == 1 and b"bytes is NULL" in bytes_text, told
    assert b"allowed are 0 to %d" % (len(ranks) - 1) in place_text, told


def what_is_no_usable_process_set_is_refused():
    last = hvd.ProcessSet([hvd.size() - 1])
    assert last.ranks == [hvd.size() - 1]
    assert last.size() is last.rank() is last.included() is last.process_set_id is None
    with pytest.raises(ValueError, match="process_set is ProcessSet.*not in use.*add_process_set"):
        hvd.allreduce(torch.ones(1), process_set=last)
    with pytest.raises(ValueError, match="process_set is 3; allowed"):
        hvd.allreduce(torch.ones(1), process_set=3)
    with pytest.raises(ValueError, match="process set 0 has the ranks 0.* already"):
        hvd.add_process_set(list(reversed(range(hvd.size()))))
    with pytest.raises(ValueError, match="the job has 0 to"):
        hvd.add_process_set([0, hvd.size()])
    with pytest.raises(ValueError, match="one rank or more"):
        hvd.add_process_set([])
    for ranks in ([0, 0], [-1], [0.5], "01", 3, [True]):
        with pytest.raises(ValueError, match="ranks_or_comm is"):
            hvd.ProcessSet(ranks)
    assert hvd.remove_process_set(hvd.global_process_set) is False
    assert hvd.remove_process_set(last) is False


@contextlib.contextmanager
def _added(*sets):
    sets = [hvd.add_process_set(ranks) for ranks in sets]
    try:
        yield sets
    finally:
        for one in sets:
            assert hvd.remove_process_set(one) is True


def _first_and_last():
    """Ranks of a set of two where the job has more, else of one."""
    return sorted({0, hvd.size() - 1}) if hvd.size() > 2 else [hvd.size() - 1]


def every_operation_is_of_the_sets_ranks():
    if hvd.size() == 1:
        return
    ranks = _first_and_last()
    with _added(ranks) as [some]:
        assert some.process_set_id >= 1 and some.ranks == ranks and some.size() == len(ranks)
        assert some.included() == (hvd.rank() in ranks)
        if not some.included():
            assert some.rank() is None
            with pytest.raises(ValueError, match=f"this rank, .*, is not in process set {some.process_set_id} "):
                hvd.allreduce(torch.ones(1), process_set=some)
            return
        place, here, count = ranks.index(hvd.rank()), {"process_set": some}, len(ranks)
        assert some.rank() == place
        mine = torch.full((count,), float(hvd.rank()))
        total = float(sum(ranks))
        assert hvd.allreduce(mine, op=hvd.Sum, **here).tolist() == [total] * count
        assert hvd.allreduce(mine, **here).tolist() == [total / count] * count
        assert hvd.allreduce_(mine.clone(), op=hvd.Max, **here).tolist() == [max(ranks)] * count
        assert hvd.grouped_allreduce([mine], op=hvd.Sum, **here)[0].tolist() == [total] * count
        assert hvd.allgather(mine[:1], **here).tolist() == ranks
        assert hvd.grouped_allgather([mine[:1]], **here)[0].tolist() == ranks
        assert hvd.reducescatter(mine, op=hvd.Sum, **here).tolist() == [total]
        assert hvd.alltoall(mine, **here).tolist() == ranks
        rows, received = hvd.alltoall(mine, splits=[1] * count, **here)
        assert rows.tolist() == ranks and received.tolist() == [1] * count
        assert hvd.broadcast(mine, ranks[-1], **here).tolist() == [ranks[-1]] * count
        assert hvd.broadcast_object({"rank": hvd.rank()}, ranks[0], **here) == {"rank": ranks[0]}
        assert hvd.allgather_object(hvd.rank(), **here) == ranks
        sparse = torch.ones(3, 2).to_sparse()
        result = hvd.synchronize(hvd.sparse_allreduce_async(sparse, op=hvd.Average, **here))
        assert result.to_dense().sum() == 6
        hvd.barrier(**here)
        outsider = next(rank for rank in range(hvd.size() + 1) if rank not in ranks)
        with pytest.raises(ValueError, match=f"rank {outsider} is not in ProcessSet"):
            hvd.broadcast(mine, outsider, **here)


def gradients_stay_in_the_set():
    ranks = _first_and_last()
    if hvd.size() == 1:
        return
    with _added(ranks) as [some]:
        if not some.included():
            return
        here, count, place = {"process_set": some}, len(ranks), ranks.index(hvd.rank())
        weight = float(hvd.rank() + 1)
        weights = sum(rank + 1.0 for rank in ranks)

        def gradient_of(operation, size=count):
            tensor = torch.ones(size, requires_grad=True)
            (operation(tensor) * weight).sum().backward()
            return tensor.grad.tolist()

        assert gradient_of(lambda t: hvd.allreduce(t, op=hvd.Sum, **here)) == [weights] * count
        assert gradient_of(lambda t: hvd.grouped_allreduce([t], op=hvd.Sum, **here)[0]) == (
            [weights] * count)
        assert gradient_of(lambda t: hvd.allgather(t, **here), 2) == [weights / count] * 2
        assert gradient_of(lambda t: hvd.alltoall(t, **here)) == [rank + 1.0 for rank in ranks]
        assert gradient_of(lambda t: hvd.reducescatter(t, op=hvd.Sum, **here)) == [
            count * (rank + 1.0) for rank in ranks]
        assert gradient_of(lambda t: hvd.broadcast(t, ranks[0], **here)) == (
            [weights / count] * count if place == 0 else [0.0] * count)


def unnamed_calls_of_a_set_do_not_count_for_others():
    if hvd.size() == 1:
        return
    for _ in range(2):
        with _added([0]) as [first]:
            if first.included():
                for _ in range(3):
                    assert hvd.allreduce(torch.ones(2), op=hvd.Sum, process_set=first).sum() == 2
            assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == hvd.size()


def unnamed_calls_begin_anew_with_a_session():
    hvd.global_process_set.name_counters["allreduce"] = hvd.rank()  # As after a failure half-way.
    hvd.shutdown()
    hvd.init()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == hvd.size()


def a_set_goes_on_while_the_job_waits_and_names_are_its_own():
    if hvd.size() < 2:
        return
    last = hvd.size() - 1
    with _added([last]) as [alone]:
        handle = None
        if hvd.rank() != last:
            handle = hvd.allreduce_async(torch.ones(1), op=hvd.Sum, name="same")
        else:
            for _ in range(3):
                assert hvd.allreduce(torch.ones(1), op=hvd.Sum, name="same", process_set=alone) == 1
            handle = hvd.allreduce_async(torch.ones(1), op=hvd.Sum, name="same")
        assert hvd.synchronize(handle) == hvd.size()


def no_number_is_given_to_two_sets():
    if hvd.size() < 3:
        return
    first, second = hvd.add_process_set([0]), hvd.add_process_set(hvd.ProcessSet([1, 0]))
    number = second.process_set_id
    assert first.process_set_id == number - 1
    with pytest.raises(ValueError, match=f"process set {number} has the ranks 0, 1 already"):
        hvd.add_process_set([0, 1])
    with pytest.raises(ValueError, match="added already"):
        hvd.add_process_set(second)
    assert hvd.remove_process_set(first) and first.process_set_id is None
    third = hvd.add_process_set([2])
    assert third.process_set_id == number + 1
    if third.included():
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum, process_set=third) == 1
    if second.included():
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum, process_set=second) == 2
    assert hvd.remove_process_set(second) and hvd.remove_process_set(third)
    assert hvd.remove_process_set(third) is False


def an_optimizer_averages_over_its_set_with_scalecom():
    ranks = _first_and_last()
    if hvd.size() == 1:
        return
    with _added(ranks) as [some]:
        torch.manual_seed(1)
        parameter = torch.nn.Parameter(torch.zeros(200))
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD([parameter], lr=1.0), named_parameters=[("of_a_set", parameter)],
            compression=hvd.Compression.scalecom(rates={"of_a_set": 10}, beta=1.0, warmup_steps=0),
            process_set=some)
        for _ in range(3):
            optimizer.zero_grad()
            (parameter * torch.arange(200.0) * (hvd.rank() + 1)).sum().backward()
            optimizer.step()
        if some.included():
            mean = sum(rank + 1 for rank in ranks) / len(ranks)
            residual = optimizer.state_dict()["scalecom"]["residuals"]["of_a_set"]
            residual = residual.to(parameter.device)
            # What was sent, and what all owe, is what came.
            owed = hvd.allreduce(residual, process_set=some)
            assert torch.allclose(-parameter.detach() + owed, 3 * mean * torch.arange(200.0))
            assert "of_a_set" not in hvd.compression_state()
        else:
            saved = optimizer.state_dict()
            assert saved["scalecom"]["residuals"] == {}
            saved["scalecom"]["residuals"] = {"of_a_set": torch.zeros(200)}  # A member's.
            optimizer.load_state_dict(saved)
            # Its own gradients, uncompressed.
            assert torch.allclose(-parameter.detach(),
                                  3 * (hvd.rank() + 1) * torch.arange(200.0))


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
    for process_sets in ("static", [[0]], 3):
        with pytest.raises(ValueError, match="process_sets is"):
            hvd.init(process_sets=process_sets)
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == hvd.size()


def every_rank_gives_init_as_many_sets():
    if hvd.size() == 1:
        return
    is_first = hvd.rank() == 0
    hvd.shutdown()
    with pytest.raises(ValueError, match="0 to 1 on the ranks .* every rank gives as many"):
        hvd.init(process_sets=[hvd.ProcessSet([0])] if is_first else [])
    assert not hvd.is_initialized()
    first = hvd.ProcessSet([0])
    hvd.init(process_sets=[first])
    assert first.included() == is_first
    hvd.shutdown()
    hvd.init()


@contextlib.contextmanager
def _interrupted(after_s):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def a_wait_for_the_other_ranks_can_be_interrupted():
    if hvd.size() == 1:
        return
    for call in (hvd.add_process_set, hvd.remove_process_set):
        first = hvd.ProcessSet([0])
        if call is hvd.remove_process_set:
            hvd.add_process_set(first)
        if hvd.rank() == 0:
            with _interrupted(0.2):
                call(first)
        hvd.barrier()
        hvd.shutdown()
        hvd.init()


def threads_that_begin_a_session_at_once_begin_one():
    hvd.barrier()
    hvd.shutdown()
    errors = []

    def begin():
        try:
            hvd.init()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == hvd.size()
