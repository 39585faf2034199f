"""Claims about all-reduces of sparse tensors, and about sparse gradients. Each function is called on
every rank of a job, in this order."""

import pytest
import torch
from torch import nn

import scalecom.torch as hvd


def _random(shape, sparse_dims, kept=0.3, dtype=torch.float64):
    """Other elements on each rank; whole numbers, so that sums are exact."""
    generator = torch.Generator().manual_seed(hvd.rank())
    values = torch.randint(1, 9, shape, generator=generator, device="cpu")
    places = torch.rand(shape[:sparse_dims], generator=generator, device="cpu") < kept
    values *= places.reshape(*places.shape, *[1] * (len(shape) - sparse_dims))
    return values.to(torch.get_default_device(), dtype).to_sparse(sparse_dims)


def a_sparse_sum_is_the_dense_sum():
    for number, (shape, dims) in enumerate([((17,), 1), ((9, 10), 2), ((9, 10), 1), ((3, 4, 5), 2)]):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.int64):
            tensor = _random(shape, dims, dtype=dtype)
            for op in (hvd.Sum, hvd.Average):
                wanted = hvd.allreduce(tensor.to_dense(), op=op, name="dense")
                handle = hvd.sparse_allreduce_async(tensor, f"sparse.{number}", op)
                result = hvd.synchronize(handle)
                assert result.is_sparse and result.is_coalesced() and result.dtype == dtype
                assert result.sparse_dim() == dims and result.shape == tensor.shape
                assert torch.allclose(result.to_dense(), wanted), (shape, dtype, op)


def places_that_are_there_twice_add_up():
    tensor = torch.sparse_coo_tensor(torch.tensor([[3, 1, 3]]), torch.tensor([1.0, 2.0, 4.0]), (5,))
    result = hvd.synchronize(hvd.sparse_allreduce_async(tensor, name="twice", op=hvd.Sum))
    assert result.indices().tolist() == [[1, 3]]
    assert result.values().tolist() == [2.0 * hvd.size(), 5.0 * hvd.size()]
    assert not tensor.is_coalesced()  # Its input stays.


def ranks_may_have_no_elements():
    last = hvd.size() - 1
    for number, storing in enumerate(((last,), ())):
        count = 2 if hvd.rank() in storing else 0
        tensor = torch.sparse_coo_tensor(torch.arange(count).reshape(1, count),
                                         torch.ones(count, 3), (4, 3))
        result = hvd.synchronize(hvd.sparse_allreduce_async(tensor, f"none.{number}", hvd.Sum))
        assert result.to_dense().sum(dim=1).tolist() == ([3, 3, 0, 0] if storing else [0] * 4)


def a_handle_may_be_called():
    handles = [hvd.sparse_allreduce_async(torch.full((3,), float(number)).to_sparse(),
                                          name=f"called.{number}", op=hvd.Sum)
               for number in range(1, 4)]
    for number, handle in enumerate(handles, 1):
        assert hvd.poll(handle) in (True, False)
        assert handle().to_dense().tolist() == [number * hvd.size()] * 3
        with pytest.raises(ValueError, match="not known"):
            hvd.synchronize(handle)


def values_in_16_bits_add_up_in_32():
    values = torch.tensor([2048.0] + [1.0] * 16, dtype=torch.float16)  # 2048 + 1 is 2048 in 11 bits.
    tensor = torch.sparse_coo_tensor(torch.zeros(1, 17, dtype=torch.int64), values, (2,))
    result = hvd.synchronize(hvd.sparse_allreduce_async(tensor, name="half", op=hvd.Average))
    assert result.values().tolist() == [2064.0]


def wrong_arguments_are_refused():
    sparse = torch.ones(3).to_sparse()
    for tensor, options, message in (
            (torch.ones(3), {}, "layout.*strided.*to_sparse"), ([1.0], {}, "torch.Tensor.*list"),
            (torch.ones(3, 3).to_sparse_csr(), {}, "layout.*csr"),
            (sparse, {"op": hvd.Max}, "Average or Sum"), (sparse, {"op": "sum"}, "op is 'sum'"),
            (sparse, {"process_set": object()}, "process_set"),
            (torch.tensor([True]).to_sparse(), {"op": hvd.Sum}, "bool"),
            (torch.ones(3, dtype=torch.complex64).to_sparse(), {}, "complex64.*allowed are")):
        with pytest.raises(ValueError, match=message):
            hvd.sparse_allreduce_async(tensor, name="refused", **options)
    result = hvd.synchronize(hvd.sparse_allreduce_async(sparse, name="refused"))
    assert result.to_dense().tolist() == [1.0] * 3


def sizes_that_differ_fail_everywhere():
    if hvd.size() == 1:
        return
    last = hvd.rank() == hvd.size() - 1
    for shape, message in (((9 if last else 8,), r"8.*rank 0.*9.*rank"),
                           ((4, 5) if last else (4,), "sized.indices")):
        with pytest.raises(hvd.HorovodInternalError, match=message):
            hvd.synchronize(hvd.sparse_allreduce_async(torch.ones(shape).to_sparse(), name="sized"))
    result = hvd.synchronize(hvd.sparse_allreduce_async(torch.ones(4).to_sparse(), name="sized"))
    assert result.to_dense().tolist() == [1.0] * 4


def _embedding(sparse):
    torch.manual_seed(3)
    return nn.Sequential(nn.Embedding(20, 6, sparse=sparse), nn.Linear(6, 1)).double()


def _train(model, optimizer, steps, has_words=lambda step: True):
    generator = torch.Generator().manual_seed(17 + hvd.rank())
    for step in range(steps):
        optimizer.zero_grad()
        words = torch.randint(0, 20, (8,), generator=generator, device="cpu")
        words = words.to(model[0].weight.device)
        inputs = model[0](words) if has_words(step) else torch.ones(
            8, 6, dtype=torch.float64)
        model[1](inputs).square().mean().backward()
        optimizer.step()


def _wrap(model, **named):
    return hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.3),
                                    named_parameters=model.named_parameters(), **named)


def _assert_same(model, wanted):
    for value, other in zip(model.parameters(), wanted.parameters()):
        assert torch.allclose(value, other, rtol=1e-12, atol=1e-14)


def sparse_gradients_train_as_dense_ones():
    for named in ({}, {"sparse_as_dense": True}, {"op": hvd.Sum},
                  {"gradient_predivide_factor": 4.0}):
        dense, sparse = _embedding(False), _embedding(True)
        _train(dense, _wrap(dense, **named), 5)
        _train(sparse, _wrap(sparse, **named), 5)
        assert sparse[0].weight.grad.is_sparse
        _assert_same(sparse, dense)


def sparse_gradients_travel_uncompressed():
    for compression in (hvd.Compression.fp16, hvd.Compression.scalecom(rates={"0.weight": 8})):
        dense, sparse = _embedding(False), _embedding(True)
        _train(dense, _wrap(dense), 1)
        _train(sparse, _wrap(sparse, compression=compression), 1)
        assert torch.allclose(sparse[0].weight, dense[0].weight, rtol=1e-12, atol=1e-14)
        assert "0.weight" not in hvd.compression_state()


def a_rank_without_a_sparse_gradient_takes_part():
    def has_words(step):
        return step != 1 + hvd.rank()

    dense, sparse = _embedding(False), _embedding(True)
    _train(dense, _wrap(dense), 5, has_words)
    _train(sparse, _wrap(sparse), 5, has_words)
    _assert_same(sparse, dense)


class _Parts(nn.Module):
    """Three tables, of which a rank looks into one sparsely, one densely, and does not into one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(9, 2, dtype=torch.float64))
                                       for _ in range(3))

    def backward(self, turn, is_sparse_allowed):
        words = torch.tensor([turn % 9, 3, 3], device=self.tables[0].device)
        for place, table in enumerate(self.tables):
            kind = (place + turn) % 3
            if kind > 0:
                nn.functional.embedding(words, table, sparse=is_sparse_allowed and kind == 1
                                        ).square().sum().backward()


def ranks_agree_on_gradients_that_differ_in_kind():
    """On one rank alone: none, sparse or dense, in the first step and in later ones."""
    for named in ({}, {"num_groups": 1}, {"sparse_as_dense": True}):
        for first in range(3):
            mixed, dense = _Parts(), _Parts()
            mixed_optimizer, dense_optimizer = _wrap(mixed, **named), _wrap(dense)
            for step in range(4):
                # In the first step all ranks but rank 0 are of one kind.
                turn = first + (min(hvd.rank(), 1) if step == 0 else step * hvd.rank())
                for model, optimizer, allowed in ((mixed, mixed_optimizer, True),
                                                  (dense, dense_optimizer, False)):
                    optimizer.zero_grad()
                    model.backward(turn, allowed)
                    optimizer.step()
            _assert_same(mixed, dense)


def an_embedding_that_a_rank_does_not_use_at_first_stays_sparse():
    for user in range(hvd.size()):
        dense, sparse = _embedding(False), _embedding(True)

        def has_words(step, user=user):
            return step > 0 or hvd.rank() == user

        _train(dense, _wrap(dense), 3, has_words)
        _train(sparse, _wrap(sparse), 3, has_words)
        assert sparse[0].weight.grad.is_sparse
        _assert_same(sparse, dense)


def a_sparse_gradient_that_waits_is_on_its_way():
    """In the first step, too: neither forgotten by a closure nor zeroed."""
    embedding = nn.Embedding(4, 2, sparse=True)
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    optimizer = _wrap(embedding)

    def closure():
        loss = embedding(torch.tensor([hvd.rank() % 4], device=embedding.weight.device)).sum()
        loss.backward()
        with pytest.raises(AssertionError, match="zero_grad"):
            optimizer.zero_grad()
        return loss

    optimizer.step(closure)
    used = sum(rank % 4 == 0 for rank in range(hvd.size()))
    assert torch.allclose(embedding.weight[0], torch.tensor(1.0 - 0.3 * used / hvd.size()))
