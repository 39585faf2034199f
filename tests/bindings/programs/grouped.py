"""Claims about grouped all-reduces, and about how a tensor is read. Each function is called on every
rank of a job, in this order."""

import contextlib
import gc

import pytest
import torch

import scalecom.torch as hvd
from scalecom.torch import submit

CALLS = (hvd.grouped_allreduce, hvd.grouped_allreduce_, hvd.grouped_allreduce_async,
         hvd.grouped_allreduce_async_)


def _mine(value=0.0):
    """Tensors of several shapes and types; each element is the rank plus `value`."""
    mine = hvd.rank() + value
    return [torch.full((5,), mine), torch.full((2, 3), mine, dtype=torch.float64),
            torch.full((), mine), torch.full((0, 4), mine), torch.full((3,), int(mine)),
            torch.full((70_001,), mine, dtype=torch.bfloat16)]


def _sum(value=0.0):
    return sum(rank + value for rank in range(hvd.size()))


def _assert_all(results, value, like):
    assert isinstance(results, list) and len(results) == len(like)
    for result, tensor in zip(results, like):
        assert (result.dtype, result.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(result, torch.full_like(tensor, value))


@contextlib.contextmanager
def _replaced(name, value):
    """One of scalecom.torch.submit's is another."""
    original = getattr(submit, name)
    setattr(submit, name, value)
    try:
        yield
    finally:
        setattr(submit, name, original)


def a_group_sums_tensors_of_any_shape_and_type():
    tensors = _mine(1.0)
    _assert_all(hvd.grouped_allreduce(tensors, name="sum", op=hvd.Sum), _sum(1.0), tensors)
    _assert_all(tensors, hvd.rank() + 1, tensors)  # Its input stays.
    handle = hvd.grouped_allreduce_async(tuple(tensors), name="sum", op=hvd.Sum)
    _assert_all(hvd.synchronize(handle), _sum(1.0), tensors)


def a_group_in_place_returns_the_callers_tensors():
    for call in (hvd.grouped_allreduce_,
                 lambda *given, **named: hvd.synchronize(
                     hvd.grouped_allreduce_async_(*given, **named))):
        tensors = _mine(1.0)
        results = call(tensors, name="in place", op=hvd.Sum)
        assert all(result is tensor for result, tensor in zip(results, tensors))
        _assert_all(results, _sum(1.0), tensors)


def options_hold_for_every_member():
    tensors = [torch.full((4,), 8.0), torch.full((3,), 16.0)]
    assert [result[0] for result in hvd.grouped_allreduce(tensors, name="average")] == [8.0, 16.0]
    scaled = hvd.grouped_allreduce(tensors, name="scaled", op=hvd.Sum, prescale_factor=0.5,
                                   postscale_factor=2)
    assert [result[0] for result in scaled] == [8.0 * hvd.size(), 16.0 * hvd.size()]
    old = hvd.grouped_allreduce(tensors, average=False, name="old")
    assert [result[0] for result in old] == [8.0 * hvd.size(), 16.0 * hvd.size()]


def a_member_is_the_tensor_of_its_name_and_place():
    tensors = [torch.full((2,), float(place)) for place in range(3)]
    if hvd.rank() == 0:
        results = hvd.grouped_allreduce(tensors, name="member", op=hvd.Sum)
    else:
        results = [hvd.allreduce(tensors[place], name=f"member.{place}", op=hvd.Sum)
                   for place in range(3)]
    for place, result in enumerate(results):
        assert result.tolist() == [place * hvd.size()] * 2


def groups_without_names_match_by_order():
    handles = [hvd.grouped_allreduce_async([torch.full((2,), float(number))] * 3, op=hvd.Sum)
               for number in range(4)]
    for number, handle in enumerate(handles):
        for result in hvd.synchronize(handle):
            assert result.tolist() == [number * hvd.size()] * 2


def a_group_has_one_handle_for_one_synchronize():
    handle = hvd.grouped_allreduce_async([torch.ones(2)] * 5, name="once", op=hvd.Sum)
    assert len(hvd.synchronize(handle)) == 5
    for function in (hvd.poll, hvd.synchronize):
        with pytest.raises(ValueError, match=f"handle {handle} is not known"):
            function(handle)


def a_group_without_members_is_complete():
    for call in (hvd.grouped_allreduce, hvd.grouped_allreduce_):
        assert call([], name="empty") == []
    handle = hvd.grouped_allreduce_async([], name="empty")
    assert hvd.poll(handle) and hvd.synchronize(handle) == []


def a_handle_keeps_the_groups_tensors_alive():
    handles = [hvd.grouped_allreduce_async_([torch.ones(30_000) for _ in range(4)],
                                            name=f"alive.{number}", op=hvd.Sum)
               for number in range(5)]
    gc.collect()
    scratch = [torch.full((30_000,), 7.0) for _ in range(20)]
    for handle in handles:
        for result in hvd.synchronize(handle):
            assert torch.equal(result, torch.full((30_000,), float(hvd.size())))
    assert all(tensor[0] == 7.0 for tensor in scratch)


def groups_of_different_ranks_may_differ():
    tensors = [torch.full((3,), float(place)) for place in range(4)]
    if hvd.rank() == 0:
        results = hvd.grouped_allreduce(tensors, name="cut", op=hvd.Sum)
    else:
        late = [hvd.allreduce_async(tensors[place], name=f"cut.{place}", op=hvd.Sum)
                for place in (3, 2)]
        results = hvd.grouped_allreduce(tensors[:2], name="cut", op=hvd.Sum)
        results += [hvd.synchronize(handle) for handle in reversed(late)]
    assert [result[0] for result in results] == [place * hvd.size() for place in range(4)]


def a_bad_member_is_refused_and_nothing_is_submitted():
    good = torch.ones(3)
    for bad, message in [(torch.ones(3, 4).t(), r"\(4, 3\).*not contiguous"),
                         (torch.ones(2, dtype=torch.complex64), "complex64.*allowed are"),
                         (torch.ones(2, device="meta"), "meta"),
                         (torch.ones(2, 2).to_sparse(), "to_dense"),
                         ([1.0], "torch.Tensor.*list"), (None, "torch.Tensor.*NoneType")]:
        for call in CALLS:
            with pytest.raises(ValueError, match=message):
                call([good, bad, good], name="refused", op=hvd.Sum)
    assert good.tolist() == [1.0] * 3
    results = hvd.grouped_allreduce([good] * 3, name="refused", op=hvd.Sum)  # No name is in flight.
    assert [result[0] for result in results] == [hvd.size()] * 3


def wrong_arguments_are_refused():
    tensors = [torch.ones(3)]
    for call in CALLS:
        for arguments, message in [
                ({"average": True, "op": hvd.Sum}, "average and op"), ({"op": "sum"}, "op is 'sum'"),
                ({"op": 77}, "op 77"), ({"name": "a\0b"}, "zero"),
                ({"prescale_factor": "x"}, "prescale_factor is 'x'"),
                ({"postscale_factor": [1.0]}, r"postscale_factor is \[1.0\]"),
                ({"postscale_factor": float("nan")}, "finite"),
                ({"process_set": object()}, "process_set"), ({"name": "x" * 5000}, "name"),
                ({"compression": "fp16"}, "compression is 'fp16'")]:
            with pytest.raises(ValueError, match=message):
                call(tensors, **arguments)
        with pytest.raises(ValueError, match="tensors is a torch.Tensor"):
            call(tensors[0])
        with pytest.raises(ValueError, match="tensors is 5; a list"):
            call(5)
        with pytest.raises(ValueError, match="bool"):
            call([torch.ones(2), torch.tensor([True])], op=hvd.Average)


def a_member_in_flight_refuses_the_group_and_frees_the_others():
    handle = None
    tensors = [torch.ones(2) for _ in range(3)]
    if hvd.rank() == 0 and hvd.size() > 1:
        handle = hvd.allreduce_async(torch.ones(2), name="busy.2", op=hvd.Sum)
        for call in CALLS:
            with pytest.raises(ValueError, match="busy.2.*in flight"):
                call(tensors, name="busy", op=hvd.Sum)
    hvd.barrier()
    if handle is None:
        handle = hvd.allreduce_async(torch.ones(2), name="busy.2", op=hvd.Sum)
    assert hvd.synchronize(handle).tolist() == [hvd.size()] * 2
    results = hvd.grouped_allreduce(tensors, name="busy", op=hvd.Sum)
    assert [result.tolist() for result in results] == [[hvd.size()] * 2] * 3


def a_member_that_differs_fails_the_group_everywhere_and_alone():
    if hvd.size() == 1:
        return
    tensors = [torch.ones(4) for _ in range(3)]
    if hvd.rank() == hvd.size() - 1:
        tensors[1] = torch.ones(5)
    with pytest.raises(hvd.HorovodInternalError, match=r"differs.1.*") as caught:
        hvd.grouped_allreduce_(tensors, name="differs", op=hvd.Sum)
    assert "[4]" in str(caught.value) and "[5]" in str(caught.value)
    assert [tensors[place].tolist() for place in (0, 2)] == [[hvd.size()] * 4] * 2
    assert tensors[1][0] == 1.0
    results = hvd.grouped_allreduce([torch.ones(4)] * 3, name="differs", op=hvd.Sum)
    assert [result[0] for result in results] == [hvd.size()] * 3


def a_group_is_differentiable():
    for op, factor in ((hvd.Sum, hvd.size()), (hvd.Average, 1)):
        inputs = [torch.full((3,), 2.0, requires_grad=True), torch.full((2, 2), 5.0),
                  torch.full((4,), 7.0, requires_grad=True),
                  torch.ones(2, requires_grad=True), torch.ones(3, dtype=torch.int64)]
        outputs = hvd.grouped_allreduce(inputs, name="autograd", op=op)
        assert isinstance(outputs, list)
        assert [output.requires_grad for output in outputs] == [True, True, True, True, False]
        # The last but one has no part in the loss.
        loss = (outputs[0] * (hvd.rank() + 1)).sum() + outputs[1].sum() + outputs[2].sum() * 3
        loss.backward()
        mean = _sum(1.0) / hvd.size()
        assert torch.allclose(inputs[0].grad, torch.full((3,), mean * factor))
        assert torch.allclose(inputs[2].grad, torch.full((4,), 3.0 * factor))
        assert inputs[1].grad is None and inputs[3].grad.tolist() == [0.0, 0.0]
    maximum = hvd.grouped_allreduce([torch.ones(2, requires_grad=True)], name="max", op=hvd.Max)
    with pytest.raises(NotImplementedError, match="Average, Sum and Adasum"):
        maximum[0].sum().backward()


def fp16_compression_keeps_each_type():
    for call in (hvd.grouped_allreduce, hvd.grouped_allreduce_):
        tensors = [torch.full((5,), 1.0 + 2.0 ** -14, dtype=dtype)
                   for dtype in (torch.float32, torch.float64, torch.float16)]
        integers = torch.full((3,), 5)
        results = call([*tensors, integers], name="half", op=hvd.Sum,
                       compression=hvd.Compression.fp16)
        for result, tensor in zip(results, tensors):
            assert result.dtype == tensor.dtype and result.tolist() == [hvd.size()] * 5
        assert results[3].tolist() == [5 * hvd.size()] * 3
        is_in_place = call is hvd.grouped_allreduce_
        assert (results[0] is tensors[0]) == (results[3] is integers) == is_in_place


def scalecom_compresses_members_under_their_names():
    scalecom = hvd.Compression.scalecom(rate=4)
    for step in range(3):
        tensors = [torch.arange(64.0) + hvd.rank(), torch.arange(32.0) * (step + 1)]
        wanted = [hvd.allreduce(tensor, name=f"apart.{place}", op=hvd.Sum, compression=scalecom)
                  for place, tensor in enumerate(tensors)]
        results = hvd.grouped_allreduce(tensors, name="together", op=hvd.Sum, compression=scalecom)
        assert all(map(torch.equal, results, wanted))
    state = hvd.compression_state()
    for place in range(2):
        assert torch.equal(state[f"together.{place}"], state[f"apart.{place}"])
        assert hvd.compression_steps()[f"together.{place}"] == 3
    with pytest.raises(ValueError, match="a group needs a name"):
        hvd.grouped_allreduce([torch.ones(4)], compression=scalecom)


def every_way_of_reading_a_tensor_gives_the_same():
    base = torch.arange(48.0).view(6, 8) + hvd.rank()
    cases = [base[2:5], base[1], base.flatten()[5:6], base[:, 3:4][2:3], base[2:2],
             torch.nn.Parameter(base.clone()), base.clone().requires_grad_(),
             base.as_strided((1, 4), (3, 1)), base.bool(), base.to(torch.uint8),
             base.to(torch.int8), base.to(torch.int16), base.to(torch.int32), base.to(torch.int64),
             base.half(), base.bfloat16(), base.double(), base[0, 0]]
    for number, tensor in enumerate(cases):
        assert tensor.is_contiguous()
        quick = hvd.allreduce(tensor, name=f"read.{number}", op=hvd.Sum)
        grouped, = hvd.grouped_allreduce([tensor], name=f"group.{number}", op=hvd.Sum)
        with _replaced("_EXCHANGE", None):
            slow = hvd.allreduce(tensor, name=f"read.{number}", op=hvd.Sum)
            slow_grouped, = hvd.grouped_allreduce([tensor], name=f"group.{number}", op=hvd.Sum)
        assert quick.shape == tensor.shape and quick.dtype == tensor.dtype
        for other in (grouped, slow, slow_grouped):
            assert torch.equal(other, quick), number


def an_older_torch_refuses_the_same():
    with _replaced("_EXCHANGE", None):
        a_group_sums_tensors_of_any_shape_and_type()
        a_group_in_place_returns_the_callers_tensors()
        a_group_without_members_is_complete()
        a_bad_member_is_refused_and_nothing_is_submitted()
        wrong_arguments_are_refused()
        a_member_in_flight_refuses_the_group_and_frees_the_others()


def a_tensor_is_read_by_the_exchange_interface_where_there_is_one():
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return

    def read_slowly(tensor):
        raise AssertionError(f"{tensor.shape} was read attribute by attribute")

    with _replaced("view", read_slowly):
        parameter = torch.nn.Parameter(torch.ones(3))
        assert hvd.allreduce_(parameter, name="quick", op=hvd.Sum).tolist() == [hvd.size()] * 3
        hvd.grouped_allreduce_(_mine(), name="quick group", op=hvd.Sum)
        hvd.grouped_allreduce(_mine(), name="quick group", op=hvd.Sum)


def scales_that_are_equal_are_not_confused():
    scale = torch.tensor(2.0)
    for wanted in (2.0, 3.0):
        scale.fill_(wanted)
        result = hvd.allreduce(torch.ones(1), name="scale", op=hvd.Sum, prescale_factor=scale)
        assert result == wanted * hvd.size()
    for name in (1, True, 1.0):  # Equal, but other names.
        handles = [hvd.allreduce_async(torch.ones(1), name=other, op=hvd.Sum)
                   for other in (name, f"{name}!")]
        assert [float(hvd.synchronize(handle)) for handle in handles] == [hvd.size()] * 2
