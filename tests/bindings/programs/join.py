"""Claims about ranks that are out of data while others go on. Each function is called on every rank
of a job, in this order; rank r has r more batches than rank 0."""

import pytest
import torch

import scalecom.torch as hvd


def _uneven(work, least=2):
    """work(batch, ranks that have this batch) of as many batches as this rank has, and join."""
    for batch in range(least + hvd.rank()):
        work(batch, [rank for rank in range(hvd.size()) if batch < least + rank])
    last = hvd.join()
    assert last == hvd.size() - 1, last


def sums_are_of_the_ranks_with_data_and_averages_divide_by_all():
    def work(batch, ranks):
        mine = torch.full((5,), hvd.rank() + 1.0)
        total = sum(rank + 1.0 for rank in ranks)
        assert hvd.allreduce(mine, name="sum", op=hvd.Sum).tolist() == [total] * 5
        average = hvd.allreduce(mine, name=f"new.{batch}")
        assert torch.allclose(average, torch.full((5,), total / hvd.size()))

    _uneven(work)
    _uneven(work, least=0)


def groups_are_joined_member_by_member():
    def work(batch, ranks):
        tensors = [torch.full((3,), hvd.rank() + 1.0), torch.full((2, 2), 5, dtype=torch.int64)]
        first, second = hvd.grouped_allreduce(tensors, name="group", op=hvd.Sum)
        assert first.tolist() == [sum(rank + 1.0 for rank in ranks)] * 3
        assert (second == 5 * len(ranks)).all()

    _uneven(work)


def gathers_have_no_rows_of_ranks_that_joined():
    """Named, so that they are cached from the second batch on."""
    def work(batch, ranks):
        rows = hvd.allgather(torch.full((hvd.rank() + 1, 2), float(hvd.rank())), name="gathered")
        assert rows[:, 0].tolist() == [float(rank) for rank in ranks for _ in range(rank + 1)]
        parts = hvd.grouped_allgather([torch.full((1,), hvd.rank()), torch.zeros(2)],
                                      name="gathered.together")
        assert parts[0].tolist() == ranks and len(parts[1]) == 2 * len(ranks)

    _uneven(work, least=4)


def other_operations_take_zeros():
    def work(batch, ranks):
        scattered = hvd.reducescatter(torch.ones(hvd.size()), name="scattered", op=hvd.Sum)
        assert scattered.tolist() == [float(len(ranks))]
        sent = torch.full((hvd.size(),), hvd.rank())
        received, splits = hvd.alltoall(sent, torch.ones(hvd.size(), dtype=torch.int32),
                                        name="exchanged")
        assert received.tolist() == ranks and splits.sum() == len(ranks)
        last = hvd.size() - 1
        assert hvd.broadcast(torch.tensor([hvd.rank()]), last, name="copied").item() == last
        hvd.barrier()

    _uneven(work)


def sparse_gradients_of_ranks_that_joined_are_empty():
    def work(batch, ranks):
        gradient = torch.sparse_coo_tensor([[0, hvd.rank() + 1]], [1.0, 2.0], (hvd.size() + 1,),
                                           check_invariants=False)
        reduced = hvd.synchronize(hvd.sparse_allreduce_async(gradient, name="sparse", op=hvd.Sum))
        dense = reduced.to_dense().tolist()
        assert dense == [float(len(ranks))] + [2.0 * (rank in ranks) for rank in range(hvd.size())]

    _uneven(work)


def compressed_tensors_lose_nothing():
    """What the ranks gave is what they received and still owe."""
    compression = hvd.Compression.scalecom(rate=10, warmup_steps=0)
    given, received = torch.zeros(1000), torch.zeros(1000)

    def work(batch, ranks):
        tensor = torch.rand(1000)
        given.add_(tensor)
        received.copy_(received + hvd.allreduce(tensor, name="joined.compressed", op=hvd.Sum,
                                                compression=compression))

    torch.manual_seed(hvd.rank())
    _uneven(work, least=5)
    # The rank with most batches has received all.
    received = hvd.broadcast(received, hvd.size() - 1, name="joined.received")
    owed = hvd.compression_state()["joined.compressed"].to(given.device)
    owed /= hvd.compression_betas()["joined.compressed"]
    missing = hvd.allreduce(given - owed, name="joined.missing", op=hvd.Sum)
    assert torch.allclose(received, missing, rtol=1e-4, atol=1e-3), (received - missing).abs().max()


def an_optimizer_trains_on_uneven_batches():
    """The parameters stay the same on the ranks as long as they have data; then the last rank's
    are everybody's."""
    torch.manual_seed(1)
    for compression in (hvd.Compression.none, hvd.Compression.scalecom(rate=4, warmup_steps=1,
                                                                       min_elements=0)):
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.05),
            named_parameters=[(f"{compression is hvd.Compression.none}.{name}", parameter)
                              for name, parameter in model.named_parameters()],
            compression=compression)
        losses = []
        for epoch in range(3):
            for _ in range(6 + hvd.rank()):
                inputs = torch.randn(16, 8)
                optimizer.zero_grad()
                loss = ((model(inputs)[:, 0] - inputs.sum(1)) ** 2).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            last = hvd.join()
            assert last == hvd.size() - 1
            hvd.broadcast_parameters(model.state_dict(), root_rank=last)
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), losses
        with torch.no_grad():
            mine = torch.cat([parameter.flatten() for parameter in model.parameters()])
        gathered = hvd.allgather(mine[None])
        assert all(torch.equal(row, mine) for row in gathered)


def a_rank_may_join_before_its_first_step():
    """The others have agreed on their gradients' kinds by then; afterwards all of them do."""
    for is_sparse in (False, True):
        table = torch.nn.Embedding(6, 3, sparse=is_sparse)
        hvd.broadcast_parameters(table.state_dict(), root_rank=0)
        optimizer = hvd.DistributedOptimizer(torch.optim.SGD(table.parameters(), lr=0.05),
                                             [(f"early.{is_sparse}", table.weight)])
        for epoch in range(2):
            for step in range(0 if epoch == 0 and hvd.rank() == 0 else 2):
                optimizer.zero_grad()
                table(torch.tensor([hvd.rank(), step])).sum().backward()
                optimizer.step()
                assert table.weight.grad.is_sparse == is_sparse
            last = hvd.join()
            hvd.broadcast_parameters(table.state_dict(), root_rank=last)


def calls_without_a_name_match_again():
    def work(batch, ranks):
        assert hvd.allreduce(torch.ones(2), op=hvd.Sum).tolist() == [float(len(ranks))] * 2
        assert hvd.allgather(torch.ones(1)).sum() == len(ranks)

    for _ in range(2):
        _uneven(work)
        assert hvd.allreduce(torch.ones(2), op=hvd.Sum).tolist() == [float(hvd.size())] * 2
        assert hvd.allgather_object(hvd.rank()) == list(range(hvd.size()))


def a_broadcast_from_a_rank_that_joined_says_so():
    if hvd.rank() == 0:
        hvd.join()
    else:
        with pytest.raises(hvd.HorovodInternalError, match="rank 0, the root of this broadcast, has "
                                                           "joined"):
            hvd.broadcast(torch.ones(1), 0, name="rootless")
        hvd.join()
    assert hvd.broadcast(torch.tensor([hvd.rank()]), 0, name="rootless").item() == 0


def a_process_set_is_joined_by_itself():
    """To make one, all ranks are needed."""
    if hvd.size() < 3:
        return
    pair = hvd.add_process_set([0, 1])
    if hvd.rank() < 2:
        with pytest.raises(ValueError, match="made by all ranks, but one has joined"):
            hvd.add_process_set([1])
        assert hvd.allreduce(torch.ones(1), op=hvd.Sum, name="pair", process_set=pair).item() == 2
    hvd.join()
    hvd.remove_process_set(pair)


def a_device_is_a_number():
    with pytest.raises(ValueError, match="device is 'cpu'"):
        hvd.join("cpu")
    assert hvd.join(device=0) in range(hvd.size())
