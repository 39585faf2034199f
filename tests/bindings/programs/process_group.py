"""Claims about torch.distributed's backend "scalecom". Each function is called on every rank, in this
order."""

import datetime
import threading
import time
import types

import pytest
import torch
import torch.distributed as dist
from programs.claims import device_at_work
from programs.process_groups import all_gather_single, exchange_with_all, over, reduce_scatter_single

import scalecom.torch as hvd
from scalecom import process_sets
from scalecom.torch import distributed, process_group

OPS = (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX)


def _mine(*shape, dtype=torch.float32):
    """Small whole numbers, of which every sum is exact; each rank has its own."""
    generator = torch.Generator().manual_seed(hvd.rank())
    values = torch.randint(-4, 5, shape, generator=generator, device="cpu")
    return values.to(torch.get_default_device(), dtype)


def _agrees(call):
    """call(group) -> tensors, the same over this backend and, on the CPU, over Gloo, bit for bit."""
    gloo = dist.new_group(backend="gloo")
    results = call(None)
    with torch.device("cpu"):
        wanted = call(gloo)
    dist.destroy_process_group(gloo)
    assert len(results) == len(wanted) > 0
    for result, other in zip(results, wanted):
        assert result.device.type == torch.get_default_device().type
        assert result.dtype == other.dtype and torch.equal(result.cpu(), other), (result, other)


def reductions_equal_gloos():
    def call(of):
        results = []
        for dtype in (torch.float32, torch.float64, torch.int32, torch.int64):
            for op in OPS:
                for shape in ((), (5,), (3, 0), (70, 1000)):
                    results.append(_mine(*shape, dtype=dtype))
                    dist.all_reduce(results[-1], op, group=of)
        return results

    with over("scalecom"):
        _agrees(call)
        average = torch.full((3,), float(hvd.rank()))
        dist.all_reduce(average, dist.ReduceOp.AVG)
        assert average.tolist() == [(hvd.size() - 1) / 2] * 3


def a_reduction_to_one_rank_equals_gloos():
    def call(of):
        results = []
        for root in range(hvd.size()):
            tensor = _mine(7)
            dist.reduce(tensor, root, group=of)
            results += [tensor] * (hvd.rank() == root)
        return results

    with over("scalecom"):
        _agrees(call)
        tensor = _mine(7)
        dist.reduce(tensor, 0)
        assert hvd.rank() == 0 or torch.equal(tensor, _mine(7))


def broadcasts_gathers_and_scatters_equal_gloos():
    def call(of):
        results = []
        for root in range(hvd.size()):
            is_root = hvd.rank() == root
            for shape in ((), (4,), (2, 3), (0, 2)):
                sent = _mine(*shape, dtype=torch.int16 if of is None else torch.int32).int()
                dist.broadcast(sent, root, group=of)
                everything = [torch.zeros(shape) for _ in range(hvd.size())]
                dist.gather(_mine(*shape), everything if is_root else None, root, group=of)
                part = torch.zeros(shape)
                parts = [_mine(*shape) + place for place in range(hvd.size())]
                dist.scatter(part, parts if is_root else None, root, group=of)
                results += [sent, *everything, part]
        return results

    with over("scalecom"):
        _agrees(call)


def what_was_given_to_a_gather_may_be_overwritten_behind_its_wait():
    """Ranks other than the root have no result, and still have to wait for their part to be on its way."""
    root = hvd.size() - 1
    with over("scalecom"):
        for turn in range(3):
            parts = [torch.empty(100_000) for _ in range(hvd.size())] if hvd.rank() == root else None
            mine = torch.zeros(100_000)
            if mine.is_cuda:
                torch.cuda._sleep(40_000_000)
            mine.fill_(hvd.rank() + turn)
            dist.gather(mine, parts, root, async_op=True).wait()
            mine.fill_(-1.0)
            for rank, part in enumerate(parts or []):
                assert (part == rank + turn).all(), (turn, rank)


def all_gathers_equal_gloos():
    def call(of):
        results = []
        for shape in ((), (4,), (2, 3), (0, 2)):
            outputs = [torch.zeros(shape) for _ in range(hvd.size())]
            dist.all_gather(outputs, _mine(*shape), group=of)
            results += outputs
        joined = torch.zeros(hvd.size() * 2, 3)
        all_gather_single(joined, _mine(2, 3), group=of)
        return [*results, joined]

    with over("scalecom"):
        _agrees(call)
        outputs = [torch.zeros(rank + 1) for rank in range(hvd.size())]
        dist.all_gather(outputs, torch.full((hvd.rank() + 1,), float(hvd.rank())))
        assert [output.tolist() for output in outputs] == [
            [float(rank)] * (rank + 1) for rank in range(hvd.size())]


def reduce_scatters_are_parts_of_the_all_reduce():
    with over("scalecom"):
        for dtype in (torch.float32, torch.int64):
            for op in OPS:
                source = _mine(hvd.size() * 2, 3, dtype=dtype)
                whole = source.clone()
                dist.all_reduce(whole, op)
                wanted = whole.chunk(hvd.size())[hvd.rank()]
                part = torch.zeros(2, 3, dtype=dtype)
                reduce_scatter_single(part, source, op)
                assert torch.equal(part, wanted)
                part.zero_()
                dist.reduce_scatter(part, list(source.chunk(hvd.size())), op)
                assert torch.equal(part, wanted)


def all_to_alls_equal_gloos():
    def call(of):
        size, rank = hvd.size(), hvd.rank()
        output = torch.zeros(size * 2, 3)
        dist.all_to_all_single(output, _mine(size * 2, 3), group=of)
        sent = [(rank + peer) % 3 for peer in range(size)]  # As much as comes back.
        uneven = torch.zeros(sum(sent), 2)
        dist.all_to_all_single(uneven, _mine(sum(sent), 2), sent, sent, group=of)
        return [output, uneven]

    with over("scalecom"):
        _agrees(call)
        size, rank = hvd.size(), hvd.rank()
        outputs = [torch.zeros(peer + 1) for peer in range(size)]
        dist.all_to_all(outputs, [torch.full((rank + 1,), float(rank * 10 + peer))
                                  for peer in range(size)])
        assert [output.tolist() for output in outputs] == [
            [float(peer * 10 + rank)] * (peer + 1) for peer in range(size)]


def coalesced_collectives_do_all_they_are_given():
    with over("scalecom"):
        size = hvd.size()
        tensors = [torch.full((count,), 1.0) for count in (3, 0, 5)]
        with dist._coalescing_manager(async_ops=True) as pending:
            for tensor in tensors:
                dist.all_reduce(tensor)
        pending.wait()
        assert [tensor.tolist() for tensor in tensors] == [[float(size)] * count
                                                           for count in (3, 0, 5)]
        outputs = [torch.zeros(size * count) for count in (1, 4)]
        with dist._coalescing_manager(async_ops=True) as pending:
            for output, count in zip(outputs, (1, 4)):
                all_gather_single(output, torch.full((count,), float(hvd.rank())))
        pending.wait()
        assert outputs[1].tolist() == [float(rank) for rank in range(size) for _ in range(4)]
        outputs = [torch.zeros(count) for count in (1, 4)]
        with dist._coalescing_manager(async_ops=True) as pending:
            for output in outputs:
                reduce_scatter_single(output, torch.ones(size * output.numel()))
        pending.wait()
        assert all((output == size).all() for output in outputs)


def tensors_that_are_not_contiguous_are_reduced_where_they_lie():
    with over("scalecom"):
        whole = torch.ones(4, 6)
        dist.all_reduce(whole.t()[1:3])
        assert whole[:, 1:3].eq(hvd.size()).all() and whole[:, 0].eq(1).all()
        target = torch.zeros(2, 4 * hvd.size()).t()
        all_gather_single(target, _mine(2, 4).t())
        wanted = torch.zeros(4 * hvd.size(), 2)
        all_gather_single(wanted, _mine(2, 4).t().contiguous())
        assert torch.equal(target, wanted)


def views_that_negate_are_reduced_and_received_as_what_they_show():
    size, rank = hvd.size(), hvd.rank()
    shown = lambda value: torch._neg_view(torch.full((2,), -float(value)))
    with over("scalecom"):
        tensor = shown(3) if rank == 0 else torch.full((2,), 3.0)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        assert tensor.tolist() == [3] * 2
        target = torch._neg_view(torch.zeros(2 * size))
        all_gather_single(target, shown(rank))
        assert target.tolist() == [place for place in range(size) for _ in range(2)]
        if rank < size - 1:
            dist.send(shown(5), rank + 1)
        if rank > 0:
            target = torch._neg_view(torch.zeros(2))
            dist.recv(target, rank - 1)
            assert target.tolist() == [5] * 2


def objects_travel():
    with over("scalecom"):
        everything = [None] * hvd.size()
        dist.all_gather_object(everything, {"rank": hvd.rank(), "pad": "x" * hvd.rank()})
        assert [entry["rank"] for entry in everything] == list(range(hvd.size()))
        told = ["from 0"] if hvd.rank() == 0 else [None]
        dist.broadcast_object_list(told)
        assert told == ["from 0"]


def a_work_waits_tells_and_gives_a_future():
    with over("scalecom"):
        tensors = [torch.full((1000,), float(number)) for number in range(20)]
        works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
        results = works[5].get_future().wait()
        assert torch.equal(results[0], tensors[5])
        for number, (work, tensor) in enumerate(zip(works, tensors)):
            assert work.wait() and work.is_completed()
            assert tensor.eq(number * hvd.size()).all()
        assert dist.barrier(async_op=True).wait()


def neither_a_work_nor_its_future_waits_for_the_device():
    total = hvd.size() * (hvd.size() + 1) / 2
    with over("scalecom"):
        part, whole = torch.ones(1000), torch.zeros(hvd.size() * 1000)

        def reduce_all(tensor):
            work = dist.all_reduce(tensor, async_op=True)
            all_gather_single(whole, part)
            reduce_scatter_single(part, whole)
            work.get_future().then(lambda done: done.value()[0].add_(1.0)).wait()

        reduce_all(torch.ones(1000))  # The ways between the ranks are there.
        tensor = torch.zeros(1000)
        with device_at_work():
            tensor.fill_(hvd.rank() + 1.0)
            reduce_all(tensor)
        assert tensor.tolist() == [total + 1.0] * 1000


def a_wait_that_takes_too_long_is_told_and_may_be_repeated():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        tensor = torch.ones(3)
        if hvd.rank() == 0:
            work = dist.all_reduce(tensor, async_op=True)
            with pytest.raises(dist.DistBackendError, match="took more than 0:00:00.05"):
                work.wait(datetime.timedelta(milliseconds=50))
            assert not work.is_completed()
        hvd.barrier()
        if hvd.rank() > 0:
            work = dist.all_reduce(tensor, async_op=True)
        work.wait(datetime.timedelta(seconds=20))
        assert tensor.tolist() == [hvd.size()] * 3


def functional_collectives_work():
    from torch.distributed import _functional_collectives as functional
    with over("scalecom"):
        result = functional.all_reduce(torch.ones(3), "sum", dist.group.WORLD)
        assert (result + 0).tolist() == [hvd.size()] * 3
        gather = getattr(functional, "all_gather_single", None) or functional.all_gather_tensor
        joined = gather(torch.full((2,), float(hvd.rank())), 0, dist.group.WORLD)
        assert (joined + 0).tolist() == [float(rank) for rank in range(hvd.size())
                                         for _ in range(2)]


def what_differs_between_ranks_is_told_on_all_of_them():
    if hvd.size() == 1:
        return
    last = hvd.rank() == hvd.size() - 1
    with over("scalecom"):
        for is_async in (False, True):
            for call, message in (
                    (lambda: dist.all_reduce(torch.ones(4 + last), async_op=is_async),
                     "shape differs between ranks"),
                    (lambda: dist.all_reduce(torch.ones(4), OPS[last], async_op=is_async),
                     "differs between ranks"),
                    (lambda: all_gather_single(
                        torch.zeros((2 + last) * hvd.size()), torch.ones(2 + last),
                        async_op=is_async), "shape differs between ranks"),
                    (lambda: (dist.broadcast(torch.ones(4), 0, async_op=is_async) if last else
                              dist.all_reduce(torch.ones(4), async_op=is_async)),
                     "operation differs between ranks")):
                with pytest.raises(RuntimeError, match=message):
                    work = call()
                    work.wait()
            tensor = torch.ones(2)
            dist.all_reduce(tensor)  # The group goes on.
            assert tensor.tolist() == [hvd.size()] * 2
        sent = [2] + [0] * (hvd.size() - 1)  # All of rank 0, which expects less.
        received = [1] * hvd.size() if hvd.rank() == 0 else [0] * hvd.size()
        if hvd.rank() == 0:
            with pytest.raises(RuntimeError, match=r"sent \[2, .*expects \[1, "):
                dist.all_to_all_single(torch.zeros(sum(received)), torch.ones(2), received, sent)
        else:
            dist.all_to_all_single(torch.zeros(0), torch.ones(2), received, sent)


def wrong_arguments_are_refused_with_what_to_do():
    size = hvd.size()
    with over("scalecom"):
        for call, message in (
                (lambda: dist.all_reduce(torch.ones(2, dtype=torch.int32), dist.ReduceOp.BAND),
                 "op is BAND; the scalecom backend takes SUM, AVG.*gloo"),
                (lambda: dist.all_reduce(torch.ones(2, dtype=torch.uint16)),
                 "uint16 is not supported; allowed are"),
                (lambda: dist.all_reduce(torch.eye(2).to_sparse()), "to_dense"),
                (lambda: all_gather_single(torch.zeros(size * 3), torch.ones(2)),
                 f"gives {size * 2} elements.*the output has {size * 3}"),
                (lambda: reduce_scatter_single(torch.zeros(2), torch.ones(size * 3)),
                 f"reduce-scatter gives {size * 3} elements"),
                (lambda: dist.all_to_all_single(torch.ones(1), torch.ones(size), [2] * size, None),
                 "output splits are .*needed are")):
            with pytest.raises(ValueError, match=message):
                call()
        with pytest.raises(NotImplementedError, match="recv.. has no src.*give src.*gloo"):
            dist.recv(torch.ones(1))
        with pytest.raises(ValueError, match=f"rank {hvd.rank()} sends to .*itself.*copy_"):
            dist.isend(torch.ones(1), hvd.rank())
        tensor = torch.ones(2)
        dist.all_reduce(tensor)  # What was refused took no number.
        assert tensor.tolist() == [size] * 2


def _use_pair(group, ranks):
    place, mine = dist.get_rank(group), torch.full((3,), float(hvd.rank()))
    dist.all_reduce(mine, group=group)
    assert mine.tolist() == [sum(ranks)] * 3
    dist.broadcast(mine.fill_(hvd.rank()), ranks[1], group=group)
    assert mine.tolist() == [ranks[1]] * 3
    parts = [torch.empty(1) for _ in range(2)]
    dist.all_gather(parts, torch.tensor([float(hvd.rank())]), group=group)
    assert torch.cat(parts).tolist() == ranks
    part = torch.empty(1)
    dist.scatter(part, [torch.zeros(1), torch.ones(1)] if place == 0 else None, group=group,
                 group_src=0)
    assert part.item() == place


def groups_of_fewer_ranks_and_of_another_order_work_beside_the_whole():
    with over("scalecom"):
        size, rank = hvd.size(), hvd.rank()
        everybody = dist.new_group()
        tensor = torch.ones(2)
        dist.all_reduce(tensor, group=everybody)
        assert tensor.tolist() == [size] * 2
        first = dist.new_group([0])
        if rank == 0:
            dist.all_reduce(tensor, group=first)
            dist.barrier(group=first)
        assert tensor.tolist() == [size] * 2
        if size == 1:
            return
        last_two = dist.new_group([size - 2, size - 1])
        gloo = dist.new_group([size - 2, size - 1], backend="gloo")
        if rank >= size - 2:
            _use_pair(last_two, [size - 2, size - 1])
            exchange_with_all(last_two)
            with torch.device("cpu"):
                _use_pair(gloo, [size - 2, size - 1])
        dist.all_reduce(tensor)
        assert tensor.tolist() == [size * size] * 2


def callbacks_may_wait_for_collectives_and_barriers_may_overlap():
    with over("scalecom"):
        first, second = torch.ones(3), torch.full((2,), 2.0)

        def again(_):
            dist.all_reduce(second, async_op=True).get_future().wait()
            return second

        future = dist.all_reduce(first, async_op=True).get_future().then(again)
        assert future.wait().tolist() == [2.0 * hvd.size()] * 2
        assert first.tolist() == [hvd.size()] * 3
        works = [dist.barrier(async_op=True) for _ in range(3)]
        for work in works:
            work.wait()
        assert all(work.is_completed() and work.is_success() for work in works)


def gathered_parts_may_be_empty():
    with over("scalecom"):
        sizes = [3 * (rank % 2) for rank in range(hvd.size())]
        parts = [torch.empty(size) for size in sizes]
        dist.all_gather(parts, torch.full((sizes[hvd.rank()],), float(hvd.rank())))
        assert [part.tolist() for part in parts] == [
            [rank] * size for rank, size in enumerate(sizes)]


def names_come_again_when_what_had_them_is_over():
    with over("scalecom"):
        tensors = [torch.full((1,), float(number)) for number in range(2 * process_group._NAMES + 9)]
        works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
        for number, (work, tensor) in enumerate(zip(works, tensors)):
            work.wait()
            assert tensor.item() == number * hvd.size()


def a_group_does_not_wait_for_another_groups_future():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        first, second = torch.ones(2), torch.ones(2)
        other = dist.new_group()
        late = dist.all_reduce(first, async_op=True) if hvd.rank() == 0 else None
        dist.all_reduce(second, group=other, async_op=True).get_future().wait()
        assert second.tolist() == [hvd.size()] * 2 and (late is None or not late.is_completed())
        hvd.barrier()
        (late or dist.all_reduce(first, async_op=True)).wait()
        assert first.tolist() == [hvd.size()] * 2


def a_group_that_lacks_a_rank_is_an_error_in_time():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        if hvd.rank() == 0:  # The others never make it.
            place = dist.PrefixStore("lacking", dist.distributed_c10d._get_default_store())
            exchange = distributed._StoreExchange(place, 0, 2)
            with pytest.raises(dist.DistStoreError):
                process_sets.connect_process_set([0, 1], lambda mine, _: exchange(mine, 0.2))
            closing = threading.Event()
            exchange = distributed._PatientExchange(dist.PrefixStore("pair", place), 0, 2, closing)
            with pytest.raises(RuntimeError, match="did not meet within 0.2 s"):
                exchange(b"", 0.2)
            closing.set()
            with pytest.raises(RuntimeError, match="was destroyed"):
                exchange(b"", 20.0)
        hvd.barrier()


def the_session_stays_where_it_was_and_ends_with_the_group_that_joined():
    with over("scalecom"):
        assert hvd.is_initialized()
        assert hvd.allreduce(torch.ones(1), name="beside", op=hvd.Sum).item() == hvd.size()
    assert hvd.is_initialized()
    hvd.shutdown()
    dist.init_process_group("scalecom", init_method="scalecom://")
    dist.new_group()
    assert hvd.is_initialized()
    hvd.barrier()
    dist.destroy_process_group()
    assert not hvd.is_initialized()
    hvd.init()


def a_rank_that_comes_after_another_has_left_is_told_so_at_once():
    store = dist.HashStore()
    early, late = (distributed._StoreExchange(store, place, 2) for place in range(2))
    with pytest.raises(dist.DistStoreError):
        early(b"early", 0.1)
    assert late(b"late", 60.0) == [b"early", b"late"]
    begin = time.monotonic()
    with pytest.raises(dist.DistStoreError, match=r"places \[0\] have left.*SCALECOM_CONNECT_TIMEOUT"):
        late(b"again", 60.0)
    assert time.monotonic() - begin < 30.0


def a_group_that_is_made_again_does_not_meet_its_former_self():
    with over("scalecom"):
        for _ in range(3):
            group = dist.new_group(list(range(hvd.size()))[::-1], use_local_synchronization=True)
            exchange_with_all(group)
            dist.destroy_process_group(group)
    store = dist.HashStore()

    def meet(place, mine):
        own = distributed._own_store(types.SimpleNamespace(store=store, group_rank=place))
        return distributed._StoreExchange(own, place, 2)(mine, 0.1)

    with pytest.raises(dist.DistStoreError):
        meet(0, b"first")
    assert meet(1, b"second") == [b"first", b"second"]
    with pytest.raises(dist.DistStoreError):  # The other one comes later.
        meet(1, b"again")
