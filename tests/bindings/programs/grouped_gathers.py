"""Claims about grouped all-gathers and reduce-scatters. Each function is called on every rank of a
job, in this order."""

import pytest
import torch
from programs.claims import is_cuda

import scalecom.torch as hvd
from scalecom import _library
from scalecom.torch import submit

GATHERS = (hvd.grouped_allgather, hvd.grouped_allgather_async)
SCATTERS = (hvd.grouped_reducescatter, hvd.grouped_reducescatter_async)


def _mine():
    """Tensors of several shapes and types; each element is the rank plus one, as the rows are where
    they differ."""
    mine = hvd.rank() + 1
    return [torch.full((mine,), float(mine)), torch.full((2, 3), mine, dtype=torch.float64),
            torch.full((0, 4), float(mine)), torch.full((mine, 2), mine, dtype=torch.int16),
            torch.full((70_001,), float(mine), dtype=torch.bfloat16)]


def _splittable(value):
    return [torch.full((7,), value), torch.full((5, 2), value, dtype=torch.float64),
            torch.full((1,), int(value)), torch.full((0, 4), value)]


def _assert_same(results, wanted):
    assert isinstance(results, list) and len(results) == len(wanted)
    for result, other in zip(results, wanted):
        assert result.dtype == other.dtype and torch.equal(result, other)


def a_group_gathers_what_its_members_would():
    tensors = _mine()
    wanted = [hvd.allgather(tensor, name=f"alone.{place}") for place, tensor in enumerate(tensors)]
    assert wanted[0].tolist() == [rank + 1.0 for rank in range(hvd.size()) for _ in range(rank + 1)]
    _assert_same(hvd.grouped_allgather(tensors, name="gathered"), wanted)
    handle = hvd.grouped_allgather_async(tuple(tensors), name="gathered")
    _assert_same(hvd.synchronize(handle), wanted)


def a_group_scatters_what_its_members_would():
    for options in ({}, {"op": hvd.Sum}, {"op": hvd.Max},
                    {"op": hvd.Sum, "prescale_factor": 0.5, "postscale_factor": 3.0}):
        tensors = _splittable(hvd.rank() + 1.0)
        wanted = [hvd.reducescatter(tensor, name=f"alone.{place}", **options)
                  for place, tensor in enumerate(tensors)]
        _assert_same(hvd.grouped_reducescatter(tensors, name="scattered", **options), wanted)
        handle = hvd.grouped_reducescatter_async(tensors, name="scattered", **options)
        _assert_same(hvd.synchronize(handle), wanted)


def every_ticket_keeps_a_list_of_tensors():
    """What is done on CUDA for each tensor that a ticket keeps is done for tensors, not for rows."""
    kept = []

    class Noting(submit.DeviceTicket if is_cuda() else _library.Ticket):
        def __init__(self, pointer, keep):
            kept.append(keep)
            super().__init__(pointer, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "_ticket_type", lambda tensor: Noting)
        hvd.grouped_allgather(_mine(), name="noted")
        hvd.grouped_reducescatter(_splittable(1.0), name="noted")
        hvd.allgather(torch.ones(3, 2), name="noted")
        hvd.broadcast(torch.ones(2), 0, name="noted")
    assert len(kept) == len(_mine()) + len(_splittable(1.0)) + 2
    for keep in kept:
        assert isinstance(keep, (list, tuple)) and all(isinstance(one, torch.Tensor) for one in keep)


def fp16_scatters_keep_each_type():
    tensors = [torch.full((7,), 1.0 + 2.0 ** -14), torch.full((7,), 5)]
    results = hvd.grouped_reducescatter(tensors, name="half", op=hvd.Sum,
                                        compression=hvd.Compression.fp16)
    for result, tensor, value in zip(results, tensors, (1, 5)):
        assert result.dtype == tensor.dtype and (result == value * hvd.size()).all()


def groups_without_names_match_by_order():
    handles = [hvd.grouped_allgather_async([torch.full((1,), number)] * 2) for number in range(3)]
    for number, handle in enumerate(handles):
        for result in hvd.synchronize(handle):
            assert result.tolist() == [number] * hvd.size()


def a_member_is_the_tensor_of_its_name_and_place():
    tensors = [torch.full((2,), place) for place in range(3)]
    if hvd.rank() == 0:
        results = hvd.grouped_allgather(tensors, name="member")
    else:
        results = [hvd.allgather(tensor, name=f"member.{place}")
                   for place, tensor in enumerate(tensors)]
    for place, result in enumerate(results):
        assert result.tolist() == [place] * 2 * hvd.size()


def a_group_has_one_handle_for_one_synchronize():
    for call in (GATHERS[1], SCATTERS[1]):
        handle = call([torch.ones(3)] * 4, name="once")
        assert len(hvd.synchronize(handle)) == 4
        for function in (hvd.poll, hvd.synchronize):
            with pytest.raises(ValueError, match=f"handle {handle} is not known"):
                function(handle)
        handle = call([], name="empty")
        assert hvd.poll(handle) and hvd.synchronize(handle) == []


def poll_is_true_when_all_members_are_complete():
    if hvd.size() == 1:
        return
    tensors = [torch.ones(2), torch.ones(2)]
    if hvd.rank() == 0:
        handle = hvd.grouped_allgather_async(tensors, name="polled")
    else:
        hvd.allgather(tensors[0], name="polled.0")
    hvd.barrier()
    if hvd.rank() == 0:
        assert not hvd.poll(handle)  # Nobody else has submitted the second.
    hvd.barrier()
    if hvd.rank() == 0:
        assert len(hvd.synchronize(handle)) == 2
    else:
        hvd.allgather(tensors[1], name="polled.1")


def a_bad_member_is_refused_and_nothing_is_submitted():
    good = torch.ones(3)
    bad_ones = [(torch.ones(3, 4).t(), r"\(4, 3\).*not contiguous"),
                (torch.ones(2, dtype=torch.complex64), "complex64.*allowed are"),
                (torch.ones(2, device="meta"), "meta"), (torch.ones(2, 2).to_sparse(), "to_dense"),
                (torch.tensor(1.0), "scalar"), ([1.0], "torch.Tensor.*list")]
    for call in GATHERS + SCATTERS:
        more = [(torch.tensor([True]), "bool")] if call in SCATTERS else []
        for bad, message in bad_ones + more:
            with pytest.raises(ValueError, match=message):
                call([good, bad, good], name="refused")
        # The limit is 4,096 bytes: the members at places 0 to 9 have names short enough.
        kind = "reducescatter" if call in SCATTERS else "allgather"
        with pytest.raises(ValueError, match="4097 bytes"):
            call([good] * 11, name="x" * (4096 - len(f"{kind}..9")))
        with pytest.raises(ValueError, match="tensors is a torch.Tensor"):
            call(good)
    # No name is in flight.
    assert [len(result) for result in hvd.grouped_allgather([good] * 3, name="refused")] == [
        3 * hvd.size()] * 3
    results = hvd.grouped_reducescatter([good] * 3, name="refused", op=hvd.Sum)
    assert all((result == hvd.size()).all() for result in results)


def wrong_options_are_refused():
    for call in SCATTERS:
        for options, message in (({"op": 77}, "op 77"), ({"op": hvd.Adasum}, "Adasum"),
                                 ({"prescale_factor": "x"}, "prescale_factor is 'x'"),
                                 ({"postscale_factor": float("nan")}, "finite"),
                                 ({"process_set": object()}, "process_set"),
                                 ({"compression": hvd.Compression.scalecom()}, "allreduce only"),
                                 ({"compression": "fp16"}, "compression is 'fp16'")):
            with pytest.raises(ValueError, match=message):
                call([torch.ones(3)] * 2, name="optional", **options)
    for call in GATHERS:
        with pytest.raises(ValueError, match="process_set"):
            call([torch.ones(3)], process_set=object())


def a_member_in_flight_refuses_the_group_and_frees_the_others():
    for kind, start, call in (("g", hvd.allgather_async, hvd.grouped_allgather),
                              ("s", hvd.reducescatter_async, hvd.grouped_reducescatter)):
        tensors, handle = [torch.ones(hvd.size())] * 3, None
        if hvd.rank() == 0 and hvd.size() > 1:
            handle = start(tensors[1], name=f"busy {kind}.1")
            with pytest.raises(ValueError, match=f"busy {kind}.1.*in flight"):
                call(tensors, name=f"busy {kind}")
        hvd.barrier()
        hvd.synchronize(start(tensors[1], name=f"busy {kind}.1") if handle is None else handle)
        # What a refused group had left of itself would be met by these.
        others = [hvd.synchronize(start(torch.full((hvd.size(),), 2.0), name=f"busy {kind}.{place}"))
                  for place in (0, 2)]
        assert all((other == 2.0).all() for other in others)


def the_first_error_wins_and_the_other_members_complete():
    if hvd.size() == 1:
        return
    for call in (hvd.grouped_allgather, hvd.grouped_reducescatter):
        tensors = [torch.ones(4, 2) for _ in range(4)]
        if hvd.rank() == hvd.size() - 1:
            tensors[1], tensors[2] = torch.ones(4, 3), torch.ones(4, 5)
        with pytest.raises(hvd.HorovodInternalError, match=r"differs\.1"):
            call(tensors, name="differs")
        assert len(call([torch.ones(4, 2)] * 4, name="differs")) == 4  # No name is in flight.


def a_gather_is_differentiable():
    inputs = [torch.full((hvd.rank() + 1, 2), 2.0, requires_grad=True), torch.ones(3),
              torch.ones(2, requires_grad=True), torch.ones(1, dtype=torch.int64)]
    outputs = hvd.grouped_allgather(inputs, name="autograd")
    assert [output.requires_grad for output in outputs] == [True, True, True, False]
    weights = torch.arange(outputs[0].shape[0]).unsqueeze(1) * (hvd.rank() + 1.0)
    ((outputs[0] * weights).sum() + outputs[1].sum()).backward()  # outputs[2] has no part.
    begin = sum(range(hvd.rank() + 1))
    mean = sum(rank + 1.0 for rank in range(hvd.size())) / hvd.size()
    for row, gradient in enumerate(inputs[0].grad.tolist(), begin):
        assert gradient == pytest.approx([row * mean] * 2)
    assert inputs[1].grad is None and inputs[2].grad.tolist() == [0.0, 0.0]


def a_scatter_is_differentiable_as_its_members_are():
    for op in (hvd.Average, hvd.Sum):
        gradients = []
        for call in (hvd.grouped_reducescatter,
                     lambda tensors, name, op: [
                         hvd.reducescatter(tensor, name=f"{name}.{place}", op=op)
                         for place, tensor in enumerate(tensors)]):
            inputs = [torch.ones(7, 2, requires_grad=True), torch.ones(5, requires_grad=True)]
            outputs = call(inputs, "autograd", op=op)
            ((outputs[0] * (hvd.rank() + 1)).sum() + outputs[1].sum() * 3).backward()
            gradients.append([tensor.grad for tensor in inputs])
        _assert_same(*gradients)
        assert gradients[0][1].tolist() == [3.0 * (hvd.size() if op == hvd.Sum else 1)] * 5
    maximum = hvd.grouped_reducescatter([torch.ones(2, requires_grad=True)], name="max", op=hvd.Max)
    with pytest.raises(NotImplementedError, match="Average and Sum"):
        maximum[0].sum().backward()
