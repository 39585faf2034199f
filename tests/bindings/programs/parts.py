"""Claims about reducescatter and alltoall. Each function is called on every rank, in this order."""

import pytest
import torch
from programs.collectives import FLOATS, INTEGERS, _each
from programs.errors import _assert_disagreement, _is_last

import scalecom.torch as hvd


def _rows_of(rank, rows):
    return rows // hvd.size() + (1 if rank < rows % hvd.size() else 0)


def _part(whole):
    begin = sum(_rows_of(rank, len(whole)) for rank in range(hvd.rank()))
    return whole[begin:begin + _rows_of(hvd.rank(), len(whole))]


def reducescatter_cuts_rows_and_gives_the_first_ranks_those_left_over():
    for rows in (0, 1, 2, 5, 6, 7, 1003):
        whole = torch.arange(rows * 3.0).reshape(rows, 3)
        result = hvd.reducescatter(whole * (hvd.rank() + 1), name=f"cut.{rows}", op=hvd.Sum)
        factor = hvd.size() * (hvd.size() + 1) // 2
        assert torch.equal(result, _part(whole * factor)), (rows, result)


def reducescatter_takes_every_number_type_and_bool():
    for dtype in FLOATS + INTEGERS:
        mine = torch.arange(17).to(dtype) + hvd.rank()
        wanted = sum(torch.arange(17) + rank for rank in _each()).to(dtype)
        result = hvd.reducescatter(mine, name=f"type.{dtype}", op=hvd.Sum)
        assert result.dtype == dtype
        assert torch.equal(result, _part(wanted)), (dtype, result)
    mine = torch.tensor([hvd.rank() == 0] * 4)
    assert hvd.reducescatter(mine, name="or", op=hvd.Sum).all()
    assert hvd.reducescatter(mine, name="and", op=hvd.Min).any().item() == (
        hvd.size() == 1 and len(_part(mine)) > 0)


def reducescatter_averages_by_default_and_takes_other_ops_and_scales():
    mine = torch.full((hvd.size(), 2), float(hvd.rank() + 1))
    average = (hvd.size() + 1) / 2
    assert torch.allclose(hvd.reducescatter(mine, name="average"), torch.tensor(average))
    for op, wanted in ((hvd.Min, 1.0), (hvd.Max, float(hvd.size()))):
        assert hvd.reducescatter(mine, name=f"op.{op}", op=op).tolist() == [[wanted] * 2]
    scaled = hvd.reducescatter(mine, name="scaled", op=hvd.Sum, prescale_factor=0.5,
                               postscale_factor=4.0)
    assert scaled.tolist() == [[2.0 * sum(rank + 1 for rank in _each())] * 2]
    assert mine.tolist() == [[hvd.rank() + 1] * 2] * hvd.size()


def reducescatter_equals_its_part_of_the_allreduce_bit_for_bit():
    mine = torch.randn(10_001, 3, generator=torch.Generator().manual_seed(hvd.rank()),
                       device="cpu")  # What others than these collectives do is theirs.
    whole = hvd.allreduce(mine, name="whole")
    assert torch.equal(hvd.reducescatter(mine, name="part"), _part(whole))


def reducescatter_with_fp16_compression_keeps_the_type():
    mine = torch.full((hvd.size(),), 1.0 + 2.0 ** -14)
    result = hvd.reducescatter(mine, name="half", compression=hvd.Compression.fp16, op=hvd.Sum)
    assert result.dtype == torch.float32
    assert result.tolist() == [hvd.size()]


def alltoall_without_splits_exchanges_equal_parts():
    for dtype in [*FLOATS, *INTEGERS, torch.bool]:
        mine = torch.tensor([[hvd.rank(), other] for other in _each() for _ in range(2)]).to(dtype)
        result = hvd.alltoall(mine, name=f"equal.{dtype}")
        wanted = torch.tensor([[other, hvd.rank()] for other in _each() for _ in range(2)])
        assert result.dtype == dtype
        assert torch.equal(result, wanted.to(dtype)), (dtype, result)


def alltoall_with_splits_says_how_many_rows_came_from_whom():
    for step in range(4):  # The splits change under one name.
        splits = [(step + 2 * hvd.rank() + other) % 4 for other in _each()]
        mine = torch.tensor([[hvd.rank(), other, row]
                             for other in _each() for row in range(splits[other])])
        for given in (splits, torch.tensor(splits), torch.tensor(splits, dtype=torch.int32)):
            rows, received = hvd.alltoall(mine.reshape(-1, 3), splits=given, name="uneven")
            assert received.tolist() == [(step + 2 * other + hvd.rank()) % 4 for other in _each()]
            wanted = [[other, hvd.rank(), row]
                      for other in _each() for row in range(received[other])]
            assert rows.tolist() == wanted
            is_short = isinstance(given, torch.Tensor) and given.dtype == torch.int32
            assert received.dtype == (torch.int32 if is_short else torch.int64)


def alltoall_of_received_splits_brings_everything_back():
    splits = torch.tensor([1000 * (hvd.rank() + other) for other in _each()])
    mine = torch.randn(int(splits.sum()), 2)
    rows, received = hvd.alltoall(mine, splits=splits, name="there")
    back, sent = hvd.alltoall(rows, splits=received, name="back")
    assert torch.equal(back, mine)
    assert sent.tolist() == splits.tolist()


def one_rank_may_get_everything_and_some_give_nothing():
    splits = [0] * hvd.size()
    splits[0] = hvd.rank()
    rows, received = hvd.alltoall(torch.full((hvd.rank(),), hvd.rank()), splits, "to first")
    wanted = list(_each()) if hvd.rank() == 0 else [0] * hvd.size()
    assert received.tolist() == wanted
    assert rows.tolist() == ([rank for rank in _each() for _ in range(rank)]
                             if hvd.rank() == 0 else [])


def handles_give_what_the_blocking_calls_give():
    mine = torch.full((hvd.size() * 2,), float(hvd.rank()))
    handles = [hvd.alltoall_async(mine, name="a"),
               hvd.alltoall_async(mine, splits=[2] * hvd.size(), name="b"),
               hvd.reducescatter_async(mine, name="c", op=hvd.Max),
               hvd.alltoall_async(mine), hvd.reducescatter_async(mine)]
    wanted = [float(rank) for rank in _each() for _ in range(2)]
    assert hvd.synchronize(handles[3]).tolist() == wanted
    assert hvd.synchronize(handles[0]).tolist() == wanted
    rows, received = hvd.synchronize(handles[1])
    assert rows.tolist() == wanted
    assert received.tolist() == [2] * hvd.size()
    assert hvd.synchronize(handles[2]).tolist() == [hvd.size() - 1] * 2
    assert torch.allclose(hvd.synchronize(handles[4]), torch.tensor((hvd.size() - 1) / 2))


def the_gradient_of_alltoall_goes_back_to_where_the_rows_came_from():
    splits = [hvd.rank() + other for other in _each()]
    # Without splits, too, some ranks may have more rows than others.
    for given, gives in ((splits, splits), (None, [hvd.rank() + 1] * hvd.size())):
        mine = torch.ones(sum(gives), requires_grad=True)
        result = hvd.alltoall(mine, splits=given, name="grad")
        rows = result[0] if given else result
        (rows * (hvd.rank() + 1)).sum().backward()
        assert mine.grad.tolist() == [other + 1.0 for other in _each() for _ in range(gives[other])]


def the_gradient_of_reducescatter_gathers_those_of_the_parts():
    rows = 2 * hvd.size() + 1
    for op, factor in ((hvd.Average, 1.0), (hvd.Sum, float(hvd.size()))):
        mine = torch.ones(rows, 2, requires_grad=True)
        part = hvd.reducescatter(mine, name="grad", op=op, prescale_factor=0.5)
        (part * (hvd.rank() + 1)).sum().backward()
        wanted = [(rank + 1) * factor * 0.5 for rank in _each() for _ in range(_rows_of(rank, rows))]
        assert mine.grad.tolist() == [[value] * 2 for value in wanted]
    largest = hvd.reducescatter(torch.ones(rows, requires_grad=True), name="grad", op=hvd.Max)
    with pytest.raises(NotImplementedError, match="Average and Sum only"):
        largest.sum().backward()


def wrong_splits_are_refused_at_the_call():
    tensor = torch.ones(2 * hvd.size(), 3)
    equal = [2] * hvd.size()
    with pytest.raises(ValueError, match=f"{hvd.size() + 1} splits are given"):
        hvd.alltoall(tensor, splits=[*equal, 0])
    with pytest.raises(ValueError, match="split for rank 0 is -1"):
        hvd.alltoall(tensor, splits=[-1, *equal[1:]])
    with pytest.raises(ValueError, match="add up to"):
        hvd.alltoall(tensor, splits=[1, *equal[1:]])
    with pytest.raises(ValueError, match=f"more than the {2 * hvd.size()} rows"):
        hvd.alltoall(tensor, splits=[3, *equal[1:]])
    for splits in ([0.5] * hvd.size(), torch.ones(hvd.size()), "2" * hvd.size(), 2,
                   torch.ones(hvd.size(), 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="splits is .*whole numbers"):
            hvd.alltoall(tensor, splits=splits)
    if hvd.size() > 1:
        with pytest.raises(ValueError, match="equally.*give splits"):
            hvd.alltoall(torch.ones(hvd.size() + 1))


def wrong_tensors_and_options_are_refused_at_the_call():
    for call in (hvd.reducescatter, hvd.reducescatter_async, hvd.alltoall, hvd.alltoall_async):
        with pytest.raises(ValueError, match="scalar"):
            call(torch.tensor(1.0))
        with pytest.raises(ValueError, match="not contiguous"):
            call(torch.ones(3, 4).t())
        with pytest.raises(ValueError, match="torch.Tensor.*list"):
            call([1.0, 2.0])
        with pytest.raises(ValueError, match="process_set"):
            call(torch.ones(4), process_set=object())
    with pytest.raises(ValueError, match="Adasum"):
        hvd.reducescatter(torch.ones(4), op=hvd.Adasum)
    with pytest.raises(ValueError, match="allreduce only"):
        hvd.reducescatter(torch.ones(4), name="s", compression=hvd.Compression.scalecom())
    with pytest.raises(ValueError, match="bool"):
        hvd.reducescatter(torch.tensor([True]))


def ranks_that_differ_fail_everywhere_with_both_values():
    dtype = torch.float64 if _is_last() else torch.float32
    rows = 2 * hvd.size()
    _assert_disagreement(lambda: hvd.alltoall(torch.ones(rows, dtype=dtype), name="typed"),
                         "typed", "float32", "float64")
    _assert_disagreement(lambda: hvd.reducescatter(torch.ones(rows, dtype=dtype), name="typed"),
                         "typed", "float32", "float64")
    columns = 5 if _is_last() else 4
    _assert_disagreement(lambda: hvd.alltoall(torch.ones(rows, columns), name="shaped"),
                         "shaped", "[any, 4]", "[any, 5]")
    _assert_disagreement(lambda: hvd.reducescatter(torch.ones(columns), name="shaped"),
                         "shaped", "[4]", "[5]")
    op = hvd.Max if _is_last() else hvd.Sum
    _assert_disagreement(lambda: hvd.reducescatter(torch.ones(4), name="op", op=op),
                         "op", "sum", "max")
    assert hvd.alltoall(torch.ones(rows), name="typed").tolist() == [1.0] * rows
