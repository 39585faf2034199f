"""Claims about wrong input. Each function is called on every rank of a job, in this order."""

import os
import signal

import pytest
import torch

import scalecom.torch as hvd
from scalecom import arrays
from scalecom.process_sets import call_by_number
from scalecom.torch import mpi_ops, submit


def _is_last():
    return hvd.rank() == hvd.size() - 1


def _assert_disagreement(submit, name, *parts):
    """`submit` fails on every rank, the message has all parts, and the session, which a stall would
    end, goes on. Alone there is nobody to disagree with."""
    if hvd.size() == 1:
        return
    hvd.barrier()
    with pytest.raises(hvd.HorovodInternalError) as caught:
        submit()
    message = str(caught.value)
    last = str(hvd.size() - 1)
    for part in (name, last, "differs between ranks", *parts):
        assert part in message, f"{part!r} is not in: {message}"
    assert hvd.allreduce(torch.ones(1), name=name, op=hvd.Sum) == hvd.size()


def different_shapes_fail_everywhere_with_both_values():
    shape = (4, 9) if _is_last() else (4, 7)
    _assert_disagreement(lambda: hvd.allreduce(torch.ones(shape), name="shaped"),
                         "shaped", "4, 7", "4, 9")
    size = 6 if _is_last() else 5
    _assert_disagreement(lambda: hvd.broadcast(torch.ones(size), 0, name="shaped"),
                         "shaped", "5", "6")
    _assert_disagreement(lambda: hvd.allgather(torch.ones(2, size), name="shaped"),
                         "shaped", "5]", "6]")


def different_dtypes_fail_everywhere_with_both_values():
    dtype = torch.float64 if _is_last() else torch.float32
    _assert_disagreement(lambda: hvd.allreduce(torch.ones(3, dtype=dtype), name="typed"),
                         "typed", "float32", "float64")


def different_ops_fail_everywhere_with_both_values():
    op = hvd.Max if _is_last() else hvd.Sum
    _assert_disagreement(lambda: hvd.allreduce(torch.ones(3), name="op", op=op),
                         "op", "sum", "max")


def different_roots_fail_everywhere_with_both_values():
    root = hvd.size() - 1 if _is_last() else 0
    _assert_disagreement(lambda: hvd.broadcast(torch.ones(3), root, name="rooted"),
                         "rooted", "root")


def different_scales_fail_everywhere():
    scale = 0.25 if _is_last() else 0.5
    _assert_disagreement(
        lambda: hvd.allreduce(torch.ones(3), name="scaled", prescale_factor=scale),
        "scaled", "0.25", "0.5")


def different_compression_fails_everywhere_with_both_values():
    rate = 10 if _is_last() else 20
    _assert_disagreement(
        lambda: hvd.allreduce(torch.ones(30), name="rated",
                              compression=hvd.Compression.scalecom(rate=rate)),
        "rated", "10", "20")
    ramp_steps = 7 if _is_last() else 9
    _assert_disagreement(
        lambda: hvd.allreduce(torch.ones(30), name="ramped",
                              compression=hvd.Compression.scalecom(ramp_steps=ramp_steps)),
        "ramped", "7 ramp steps", "9 ramp steps")


def different_priorities_fail_everywhere_with_both_values():
    priority = -3 if _is_last() else 4
    _assert_disagreement(lambda: hvd.allreduce(torch.ones(3), name="urgent", priority=priority),
                         "urgent", "priority differs", "4 on", "-3 on")


def all_of_several_tensors_are_over_with_an_error_of_the_first():
    """Whoever catches it may try again at once."""
    if hvd.size() == 1:
        return

    def in_arrays(names, tensors):
        arrays.broadcast([f"broadcast.{name}" for name in names], [tensor.cpu().numpy() for tensor in tensors], 0)

    for call in (in_arrays, lambda names, tensors: mpi_ops.broadcast_all_(names, tensors, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(submit, "broadcast_group", lambda *_: None)  # As of tensors that it cannot read.
            handles = len(mpi_ops._handles)
            with pytest.raises(hvd.HorovodInternalError, match="differs"):
                call(["differs", "takes long"], [torch.ones(2 + _is_last()), torch.ones(8_000_000)])
            call(["differs", "takes long"], [torch.ones(2), torch.ones(8_000_000)])
            assert len(mpi_ops._handles) == handles


def one_name_is_in_flight_once():
    handle = None
    if hvd.rank() == 0:
        handle = hvd.allreduce_async(torch.ones(2), name="twice", op=hvd.Sum)
        if hvd.size() > 1:  # The others have not submitted it: it is in flight.
            with pytest.raises(ValueError, match="twice.*in flight"):
                hvd.allreduce_async(torch.ones(2), name="twice", op=hvd.Sum)
            with pytest.raises(ValueError, match="twice.*in flight"):
                hvd.allreduce_(torch.ones(2), name="twice", op=hvd.Sum)
    hvd.barrier()
    if handle is None:
        handle = hvd.allreduce_async(torch.ones(2), name="twice", op=hvd.Sum)
    assert hvd.synchronize(handle).tolist() == [hvd.size()] * 2
    assert hvd.allreduce(torch.ones(2), name="twice", op=hvd.Sum).tolist() == [hvd.size()] * 2


def a_wait_that_was_interrupted_may_be_repeated():
    if hvd.size() == 1:
        return
    handle = None
    if hvd.rank() == 0:
        handle = hvd.allreduce_async(torch.ones(2), name="interrupted", op=hvd.Sum)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            hvd.synchronize(handle)  # The others have not submitted it.
        signal.signal(signal.SIGALRM, before)
    hvd.barrier()
    handle = handle or hvd.allreduce_async(torch.ones(2), name="interrupted", op=hvd.Sum)
    assert hvd.synchronize(handle).tolist() == [hvd.size()] * 2
    with pytest.raises(ValueError, match="can be synchronized once"):
        hvd.synchronize(handle)


def tensors_of_the_wrong_kind_are_refused_at_the_call():
    transposed = torch.ones(3, 4).t()
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allreduce_async, hvd.allgather,
                 lambda tensor: hvd.broadcast(tensor, 0),
                 lambda tensor: hvd.broadcast_(tensor, 0)):
        with pytest.raises(ValueError, match=r"\(4, 3\).*not contiguous.*contiguous\(\)"):
            call(transposed)
        with pytest.raises(ValueError, match="complex64.*allowed are"):
            call(torch.ones(2, dtype=torch.complex64))
        with pytest.raises(ValueError, match="meta"):
            call(torch.ones(2, device="meta"))
        with pytest.raises(ValueError, match="to_dense"):
            call(torch.ones(2, 2).to_sparse())
        with pytest.raises(ValueError, match="torch.Tensor.*list"):
            call([1.0, 2.0])


def tensors_whose_memory_is_not_their_values_are_refused_at_the_call():
    """Each by every call, in place or not."""
    freed = torch.ones(3, 2)
    freed.untyped_storage().resize_(0)
    kinds = [(torch._neg_view(torch.ones(3, 2)), r"\(3, 2\).*negative.*resolve_neg\(\)"),
             (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested.*unbind\(\)"),
             (torch.ones(3, 2, device="cpu").to_mkldnn(), r"_mkldnn.*to_dense\(\)"),
             (torch._to_functional_tensor(torch.ones(3, 2)), r"\(3, 2\) has no memory.*to_local\(\)"),
             (freed, r"\(3, 2\) has no memory.*freed")]
    calls = (hvd.allreduce, hvd.allreduce_, hvd.allgather, hvd.alltoall, hvd.reducescatter,
             lambda tensor: hvd.broadcast(tensor, 0), lambda tensor: hvd.broadcast_(tensor, 0),
             *(lambda tensor, call=call: call([torch.ones(3, 2), tensor]) for call in (
                 hvd.grouped_allreduce, hvd.grouped_allreduce_, hvd.grouped_allgather,
                 hvd.grouped_reducescatter)))
    for tensor, message in kinds:
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call(tensor)
    for call in calls:
        with pytest.raises(ValueError, match=r"\(3, 2\) has no memory"):
            torch.vmap(call)(torch.ones(4, 3, 2))
    hvd.barrier()


def wrong_options_are_refused_at_the_call():
    tensor = torch.ones(4)
    with pytest.raises(ValueError, match="average and op"):
        hvd.allreduce(tensor, average=True, op=hvd.Sum)
    with pytest.raises(ValueError, match="op 77"):
        hvd.allreduce(tensor, op=77)
    with pytest.raises(ValueError, match="process_set"):
        hvd.allreduce(tensor, process_set=object())
    for root in (-1, hvd.size()):
        with pytest.raises(ValueError, match=f"root is {root}; allowed are"):
            hvd.broadcast(tensor, root)
    with pytest.raises(ValueError, match="scalar"):
        hvd.allgather(torch.tensor(1.0))
    with pytest.raises(ValueError, match="bool"):
        hvd.allreduce(torch.tensor([True]), op=hvd.Average)
    with pytest.raises(ValueError, match="finite"):
        hvd.allreduce(tensor, prescale_factor=float("nan"))
    with pytest.raises(ValueError, match="name"):
        hvd.allreduce(tensor, name="x" * 5000)


def wrong_compression_is_refused_at_the_call():
    for rate in (0, -1, 2.5, 65_537, float("nan"), "many"):
        with pytest.raises(ValueError, match="rate is .*1 to 65536"):
            hvd.Compression.scalecom(rate=rate)
    for beta in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="beta is .*above 0 and at most 1"):
            hvd.Compression.scalecom(beta=beta)
    with pytest.raises(ValueError, match="warmup_steps is -1"):
        hvd.Compression.scalecom(warmup_steps=-1)
    for guard in (0, 1.5, float("nan"), "strict"):
        with pytest.raises(ValueError, match="guard is .*above 0 and at most 1, or None"):
            hvd.Compression.scalecom(guard=guard)
    for steps in (-1, 0.5, 2**31, "many"):
        with pytest.raises(ValueError, match="ramp_steps is .*0 to 2147483647"):
            hvd.Compression.scalecom(ramp_steps=steps)
    with pytest.raises(ValueError, match="mode is 'sharp'.*'cyclic', 'sharded', 'hierarchical', 'auto', None"):
        hvd.Compression.scalecom(mode="sharp")
    with pytest.raises(ValueError, match="values is 'int8'.*'float32', 'float16', 'bfloat16'"):
        hvd.Compression.scalecom(values="int8")
    with pytest.raises(ValueError, match="rate is 0"):
        hvd.Compression.scalecom(rates={"*": 0})
    for compression in (100, "fp16", hvd.Compression.scalecom, hvd.Compression):
        with pytest.raises(ValueError, match="compression is .*allowed are"):
            hvd.allreduce(torch.ones(4), compression=compression)
        with pytest.raises(ValueError, match="compression is .*allowed are"):
            hvd.allreduce_async_(torch.ones(4), compression=compression)
        layer = torch.nn.Linear(1, 1)
        with pytest.raises(ValueError, match="compression is .*allowed are"):
            hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.1),
                                     compression=compression)


def compression_needs_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        hvd.allreduce(torch.ones(4), compression=hvd.Compression.scalecom())


def residuals_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="step"):
        hvd.load_compression_state({"x": torch.zeros(3)}, {"x": -1})


def a_refused_call_leaves_nothing_behind():
    assert hvd.allreduce(torch.ones(1), name="after all", op=hvd.Sum) == hvd.size()
    assert hvd.stats()["tensors_completed"] > 0


def a_refused_call_without_a_name_may_be_repeated():
    """By the rank alone that was refused: the others are in their first one."""
    good = torch.ones(2 * hvd.size())
    bad = torch.ones(2 * hvd.size(), 2)[:, 0]  # Not contiguous.
    for call in (hvd.allreduce, hvd.allreduce_, hvd.allgather, hvd.alltoall, hvd.reducescatter,
                 lambda tensor: hvd.broadcast_(tensor, 0),
                 *(lambda tensor, call=call: call([good, tensor]) for call in (
                     hvd.grouped_allreduce, hvd.grouped_allgather, hvd.grouped_reducescatter))):
        if _is_last():
            with pytest.raises(ValueError, match="not contiguous"):
                call(bad)
        call(good)
    if _is_last():
        with pytest.raises(ValueError, match="splits"):
            hvd.alltoall(good, [1] * hvd.size())
    assert hvd.alltoall(good, [2] * hvd.size())[1].tolist() == [2] * hvd.size()


def the_number_of_a_refused_call_is_another_ones_where_that_came_first():
    numbers = []

    def refuse(number):
        numbers.append(number)
        call_by_number(hvd.global_process_set, "test", numbers.append)
        raise ValueError

    with pytest.raises(ValueError):
        call_by_number(hvd.global_process_set, "test", refuse)
    call_by_number(hvd.global_process_set, "test", numbers.append)
    assert [number - numbers[0] for number in numbers] == [0, 1, 2]


def wrong_types_are_refused_at_the_call():
    for arguments, part in [({"op": "sum"}, "op is 'sum'"), ({"op": 1.5}, "op is 1.5"),
                            ({"prescale_factor": "x"}, "prescale_factor is 'x'"),
                            ({"postscale_factor": None}, "postscale_factor is None"),
                            ({"priority": 0.5}, "priority is 0.5"),
                            ({"priority": "high"}, "priority is 'high'"),
                            ({"priority": None}, "priority is None"),
                            ({"priority": 2**31}, "priority is 2147483648; allowed are"),
                            ({"priority": -2**31 - 1}, "priority is -2147483649; allowed are"),
                            ({"name": "a\0b"}, "zero byte")]:
        with pytest.raises(ValueError, match=part):
            hvd.allreduce(torch.ones(2), **arguments)
    for root in (0.5, "root"):
        with pytest.raises(ValueError, match="root_rank is"):
            hvd.broadcast(torch.ones(2), root)


def _ones_on_host():
    return torch.ones(3, device="cpu")  # A forked process can use no GPU.


def _use_what_another_process_has(handle):
    """In a process that was forked."""
    assert hvd.rank() < hvd.size()
    uses = [lambda: hvd.allreduce(_ones_on_host(), name="forked"), hvd.barrier, hvd.compression_state,
            lambda: hvd.start_timeline("/nowhere/timeline.json")]
    if hvd.size() > 1:
        assert hvd.poll(handle)  # Whoever polls until it is ready must not do so for ever.
        uses += [mpi_ops._handles[handle][0].output_shape, lambda: hvd.synchronize(handle)]
    for use in uses:
        with pytest.raises((ValueError, hvd.HorovodInternalError), match="was forked from"):
            use()
    hvd.shutdown()


def a_forked_process_is_told_so_and_leaves_the_session_alone():
    submits = [lambda rank=rank: hvd.allreduce_async(_ones_on_host(), name=f"fork {rank}", op=hvd.Sum)
               for rank in range(hvd.size())]
    own = submits.pop(hvd.rank())()  # The others submit it when they have forked, too.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _use_what_another_process_has(own)
        except BaseException as problem:
            os.write(writing, repr(problem).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == ""
    assert os.waitpid(child, 0)[1] == 0
    for handle in [own, *(submit() for submit in submits)]:
        assert hvd.synchronize(handle).tolist() == [hvd.size()] * 3
