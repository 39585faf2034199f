"""Claims about the order of work on a device, and that it computes what the CPU does. Each function is
called on every rank, in this order. On a CPU, which has no streams, they hold too.

A delay on a stream shows a wait that is missing: what is enqueued behind it has not happened when
somebody reads too early.
"""

import contextlib
import os
import time

import pytest
import torch
from programs.claims import is_cuda
from programs.collectives import FLOATS, INTEGERS, _each

import scalecom.torch as hvd

COUNT = 100_003


def _total():
    return float(sum(rank + 1 for rank in _each()))


def _stream():
    """A stream of its own, to be entered."""
    return torch.cuda.stream(torch.cuda.Stream()) if is_cuda() else contextlib.nullcontext()


def _delay(cycles=40_000_000):
    """Some 20 ms of the current stream."""
    if is_cuda():
        torch.cuda._sleep(cycles)


def _late(count=COUNT):
    """A tensor that is rank + 1, but for a while."""
    tensor = torch.zeros(count)
    _delay()
    return tensor.fill_(hvd.rank() + 1)


def _is_same_sum():
    """Sums have one order, here and on the CPU: by the host's collectives, or of two addends."""
    return os.environ.get("SCALECOM_CUDA_COLLECTIVES") != "nccl" or hvd.size() <= 2


def _operations():
    """name -> what starts it on a tensor, and the check of its result, of which a row is a rank's."""
    whole = [_total()] * COUNT
    rows = COUNT // hvd.size() + (hvd.rank() < COUNT % hvd.size())
    compression = hvd.Compression.scalecom(rate=1)
    return {
        "sum": (lambda mine, name: hvd.allreduce_async(mine, name=name, op=hvd.Sum),
                lambda result: result.tolist() == whole),
        "in place": (lambda mine, name: hvd.allreduce_async_(mine, name=name, op=hvd.Sum),
                     lambda result: result.tolist() == whole),
        "halves": (lambda mine, name: hvd.allreduce_async_(mine, name=name, op=hvd.Sum,
                                                           compression=hvd.Compression.fp16),
                   lambda result: result.tolist() == whole),
        "scalecom": (lambda mine, name: hvd.allreduce_async_(mine, name=name, op=hvd.Sum,
                                                             compression=compression),
                     lambda result: result.tolist() == whole),
        "group": (lambda mine, name: hvd.grouped_allreduce_async(list(mine.split(30_000)), name=name,
                                                                 op=hvd.Sum),
                  lambda results: torch.cat(results).tolist() == whole),
        "gather": (lambda mine, name: hvd.allgather_async(mine, name=name),
                   lambda result: result.reshape(hvd.size(), COUNT)[:, ::999].tolist() == [
                       [rank + 1.0] * len(range(0, COUNT, 999)) for rank in _each()]),
        "scatter": (lambda mine, name: hvd.reducescatter_async(mine, name=name, op=hvd.Sum),
                    lambda result: result.tolist() == [_total()] * rows),
        "broadcast": (lambda mine, name: hvd.broadcast_async_(mine, hvd.size() - 1, name=name),
                      lambda result: result.tolist() == [float(hvd.size())] * COUNT),
        "exchange": (lambda mine, name: hvd.alltoall_async(
            mine, [hvd.rank()] * (hvd.size() - 1) + [COUNT - hvd.rank() * (hvd.size() - 1)],
            name=name),
            lambda result: result[0].unique().tolist() == [rank + 1.0 for rank in _each()
                                                           if result[1][rank] > 0]),
    }


def an_operation_begins_behind_what_its_stream_was_given():
    for name, (start, is_right) in _operations().items():
        with _stream():
            assert is_right(hvd.synchronize(start(_late(), f"behind {name}"))), name


def the_stream_that_synchronizes_waits_for_the_result():
    for name, (start, is_right) in _operations().items():
        with _stream():
            handle = start(_late(), f"waits {name}")
        with _stream():
            assert is_right(hvd.synchronize(handle)), name


def what_follows_synchronize_comes_behind_the_operation():
    for name, (start, is_right) in _operations().items():
        with _stream():
            mine = _late()
            handle = start(mine, f"follows {name}")
        with _stream():
            result = hvd.synchronize(handle)
            if name not in ("in place", "halves", "scalecom", "broadcast"):
                mine.fill_(-1.0)
            assert is_right(result), name
            mine.fill_(-1.0)
            assert mine.unique().tolist() == [-1.0], name


def the_host_does_not_wait_for_the_device():
    """But for its own collectives, to which it has to bring the data."""
    if not is_cuda() or os.environ.get("SCALECOM_CUDA_COLLECTIVES") != "nccl":
        return
    torch.cuda.synchronize()
    hvd.barrier()
    with _stream():
        mine = torch.zeros(COUNT)
        _delay(1_000_000_000)
        mine.fill_(hvd.rank() + 1)
        result = hvd.allreduce(mine, name="unwaited", op=hvd.Sum)
        assert not torch.cuda.current_stream().query(), "synchronize() waited for the device"
        assert result[COUNT - 1] == _total()


def memory_is_not_given_to_others_while_an_operation_uses_it():
    """Torch gives what is freed to the stream that it was allocated for, here the first."""
    count = 16 << 20
    torch.cuda.synchronize() if is_cuda() else None
    first = _stream()
    for turn in range(3):
        with first:
            mine = _late(count)
            handle = hvd.allreduce_async(mine, name="given back", op=hvd.Sum)
        with _stream():
            result = hvd.synchronize(handle)
            del mine, handle
            with first:
                others = [torch.full((count,), -7.0) for _ in range(2)]
            assert result.unique().tolist() == [_total()], turn
            del others


def memory_of_a_handle_that_nobody_waits_for_stays():
    count = 4 << 20
    with _stream():
        handle = hvd.allreduce_async_(_late(count), name="left", op=hvd.Sum)
        if hvd.rank() == 0:
            from scalecom.torch import mpi_ops
            del mpi_ops._handles[handle]
            others = [torch.full((count,), -7.0) for _ in range(4)]
            hvd.barrier()
            # The next submit lets go of what is complete.
            hvd.allreduce(torch.ones(1), name="after left")
            assert all(other.unique().tolist() == [-7.0] for other in others)
        else:
            assert hvd.synchronize(handle).unique().tolist() == [_total()]
            hvd.barrier()
            hvd.allreduce(torch.ones(1), name="after left")


def every_type_op_and_size_gives_the_cpus_bits():
    """Of whole numbers, whose sums are exact."""
    ops = {hvd.Sum: "sum", hvd.Average: "average", hvd.Min: "min", hvd.Max: "max",
           hvd.Product: "product"}
    for dtype in INTEGERS + FLOATS:
        for count in (1, 2, 31, 257, 4099):
            mine = (torch.arange(count, device="cpu") % 3 + 1 + hvd.rank()).to(dtype)
            pairs = []
            for op, label in ops.items():
                name = f"{label} {dtype} {count}"
                there = hvd.allreduce_async(mine.to(torch.get_default_device()), name=name, op=op)
                pairs.append((name, there, hvd.allreduce_async(mine, name=f"cpu {name}", op=op)))
            for name, there, here in pairs:
                result, wanted = hvd.synchronize(there), hvd.synchronize(here)
                assert result.device.type == torch.get_default_device().type
                assert result.dtype == dtype and torch.equal(result.cpu(), wanted), name


def scales_round_as_on_the_cpu():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(hvd.rank())
        mine = torch.randn(5003, generator=generator, device="cpu").to(dtype)
        options = {"op": hvd.Average, "prescale_factor": 0.3, "postscale_factor": 7.0}
        wanted = hvd.allreduce(mine, name=f"cpu scaled {dtype}", **options)
        result = hvd.allreduce(mine.to(torch.get_default_device()), name=f"scaled {dtype}",
                               **options).cpu()
        if _is_same_sum():
            assert torch.equal(result, wanted), dtype
        else:  # Sums of three numbers below 2, rounded twice instead of in another order.
            slack = 4 * torch.finfo(dtype).eps
            assert torch.allclose(result, wanted, rtol=slack, atol=8 * slack), dtype


def _compressed(name, mine, compression):
    return hvd.allreduce(mine, name=name, compression=compression).cpu()


def scalecom_gives_the_cpus_bits():
    """Results, and residuals, which no sum over ranks touches but hierarchical's."""
    number = 0
    for mode in ("cyclic", "sharded", "hierarchical"):
        for dtype, values, rate, count, beta in (
                (torch.float32, "float32", 100, 40_009, 0.1), (torch.float32, "float32", 1, 77, 0.5),
                (torch.float32, "float16", 7, 4099, 1.0), (torch.float32, "bfloat16", 400, 999, 0.3),
                (torch.float16, "float32", 50, 4099, 0.5), (torch.float16, "float16", 257, 4099, 0.1),
                (torch.bfloat16, "bfloat16", 16, 513, 0.5)):
            number += 1
            compression = hvd.Compression.scalecom(rate=rate, beta=beta, mode=mode, values=values)
            for step in range(4):
                generator = torch.Generator().manual_seed(1000 * number + 10 * step + hvd.rank())
                mine = torch.randn(count, generator=generator, device="cpu").to(dtype)
                wanted = _compressed(f"cpu {number}", mine, compression)
                result = _compressed(f"device {number}", mine.to(torch.get_default_device()),
                                     compression)
                label = f"{mode} {dtype} {values} step {step}"
                assert torch.equal(result != 0, wanted != 0) or mode == "hierarchical", label
                if _is_same_sum():
                    assert torch.equal(result, wanted), label
                elif mode != "hierarchical":
                    slack = 4 * max(torch.finfo(dtype).eps,
                                    torch.finfo(getattr(torch, values)).eps)
                    assert torch.allclose(result, wanted, rtol=slack, atol=8 * slack), label
            state = hvd.compression_state()
            if _is_same_sum() or mode != "hierarchical":
                assert torch.equal(state[f"device {number}"], state[f"cpu {number}"]), label
            assert state[f"device {number}"].abs().sum() > 0 or rate == 1


def a_batch_in_its_place_gives_the_cpus_bits_whoever_leads():
    """Its tables are written once and used under each leader, but for a larger batch and a void step."""
    eps = torch.finfo(torch.float32).eps
    for mode, rate in (("sharded", 100), ("sharded", 300), ("cyclic", 100), ("cyclic", 300)):
        compression = hvd.Compression.scalecom(rate=rate, mode=mode)
        place = [torch.zeros(count) for count in (20_011, 3, 777)]
        for step in range(2 * hvd.size() + 6):
            tensors = [torch.zeros(90_001)] if step == 2 else place
            generator = torch.Generator().manual_seed(1000 * rate + 10 * step + hvd.rank())
            mine = [torch.randn(len(tensor), generator=generator, device="cpu") for tensor in tensors]
            if step == 4 and hvd.rank() == 0:
                mine[0][123] = float("nan")
            for tensor, values in zip(tensors, mine):
                tensor.copy_(values)
            for kind, group in (("cpu", mine), ("device", tensors)):
                hvd.grouped_allreduce_(group, name=f"{kind} in place {mode} {rate} {len(group)}",
                                       op=hvd.Sum, compression=compression)
            for wanted, tensor in zip(mine, tensors):
                found, label = tensor.cpu(), f"{mode} {rate} step {step}"
                if step == 4:  # There the CPU's is reduced densely.
                    assert found.isfinite().all() == wanted.isfinite().all(), label
                elif _is_same_sum():
                    assert torch.equal(found, wanted), label
                else:
                    assert torch.equal(found != 0, wanted != 0), label
                    assert torch.allclose(found, wanted, rtol=4 * eps, atol=32 * eps), label


def what_is_owed_waits_where_a_postscale_overflows():
    """The sum is finite, and its result is not. Quarters add up exactly."""
    compressed = {"compression": hvd.Compression.scalecom(rate=20)}
    for dtype, factor in ((torch.float32, 3e38), (torch.float16, 6e4)):
        for step, options in enumerate((compressed, {"postscale_factor": factor}, {}, {})):
            generator = torch.Generator().manual_seed(10 * step + hvd.rank())
            mine = torch.randint(-80, 80, (300,), generator=generator, device="cpu").to(dtype) / 4
            wanted, found = [hvd.allreduce(mine.to(place), name=f"{kind} overflowing {dtype}", op=hvd.Sum,
                                           **options).cpu()
                             for kind, place in (("cpu", "cpu"), ("device", torch.get_default_device()))]
            assert torch.equal(found, wanted) and wanted.isfinite().all() == (step != 1), (dtype, step)
            state = hvd.compression_state()
            owed = state[f"device overflowing {dtype}"]
            assert torch.equal(owed, state[f"cpu overflowing {dtype}"]), (dtype, step)
            assert owed.any() == (step < 2), (dtype, step)


def a_step_with_nan_is_taken_back():
    """All ranks see that the step is void. What it added to the residual is subtracted again, which
    rounds as it does on the CPU: gradients below 5 in float32."""
    compression = hvd.Compression.scalecom(rate=10, beta=0.5)
    for step in range(6):
        mine = torch.randn(1000).clamp(-5.0, 5.0)
        if step == 3 and hvd.rank() == hvd.size() - 1:
            mine[123] = float("inf")
        before = hvd.compression_state().get("void")
        hvd.allreduce(mine.cpu(), name="cpu void", compression=compression)
        result = hvd.allreduce(mine, name="void", compression=compression)
        assert bool(result.isfinite().all()) == (step != 3)
        state = hvd.compression_state()
        assert torch.equal(state["void"], state["cpu void"]), step
        if step == 3:
            assert torch.allclose(state["void"], before, rtol=0.0, atol=2e-6)


def health_is_the_cpus_and_a_guard_goes_by_it():
    """Of the 100th step. A guard changes the tenth step from there, on a CPU the second."""
    compression = hvd.Compression.scalecom(rate=10, beta=0.5, mode="sharded", guard=0.1)
    travelled = []
    for step in range(112):
        generator = torch.Generator().manual_seed(10 * step + hvd.rank())
        mine = torch.randn(2560, generator=generator, device="cpu")
        results = [_compressed(name, mine.to(place), compression)
                   for name, place in (("cpu health", "cpu"),
                                       ("device health", torch.get_default_device()))]
        travelled.append([int((result != 0).sum()) for result in results])
        if step == 99:
            torch.cuda.synchronize() if is_cuda() else None
            stats = hvd.compression_stats()
    wanted, found = stats["cpu health"], stats["device health"]
    assert found["step"] == wanted["step"] == 99 and found["halvings"] == wanted["halvings"] == 1
    for figure, value in wanted.items():
        slack = 1e-5 * abs(value) if _is_same_sum() else 0.1  # Of 32 chunks some may tie.
        assert abs(found[figure] - value) <= slack, (figure, found, wanted)
    first = 109 if is_cuda() else 101
    assert travelled[first - 1][1] == 256 and travelled[first][1] == 512, travelled[100:]
    assert travelled[100][0] == 256 and travelled[101][0] == 512, travelled[100:]


def auto_decides_by_what_was_measured_on_the_device():
    """Alike on all ranks. What comes before the measurement is dense."""
    count, shape = 4_000_000, (2000, 2000)
    compression = hvd.Compression.scalecom(rate=100, mode="auto")
    parameter = torch.nn.Parameter(torch.zeros(shape))
    before, = hvd.compression_plan([("auto", parameter)], compression)
    travelled = [int((hvd.allreduce(torch.ones(shape), name="auto", compression=compression) != 0).sum())
                 for _ in range(3)]
    row, = hvd.compression_plan([("auto", parameter)], compression)
    print(f"before: {before['reason']}; now: {row['mode']}: {row['reason']}")
    assert len(set(map(str, hvd.allgather_object(row)))) == 1
    if hvd.size() > 1:
        assert "dense takes" in row["reason"], row
    wanted = count if row["mode"] == "dense" else count // 100
    first = count if "are measured with the first" in before["reason"] else wanted
    assert travelled == [first, wanted, wanted], row


def residuals_are_saved_and_loaded():
    compression = hvd.Compression.scalecom(rate=10, beta=0.5)
    gradients = [torch.randn(2000) for _ in range(6)]
    for gradient in gradients[:3]:
        hvd.allreduce(gradient, name="saved", compression=compression)
    saved, steps = hvd.compression_state(), hvd.compression_steps()
    assert saved["saved"].device.type == "cpu" and saved["saved"].abs().sum() > 0
    wanted = [hvd.allreduce(gradient, name="saved", compression=compression)
              for gradient in gradients[3:]]
    hvd.load_compression_state({"saved": saved["saved"]}, steps)
    for gradient, other in zip(gradients[3:], wanted):
        result = hvd.allreduce(gradient, name="saved", compression=compression)
        assert torch.equal(result, other)


def a_thousand_small_tensors_are_reduced():
    for step in range(3):
        tensors = [torch.full((place % 50 + 1,), float(place + step + hvd.rank()))
                   for place in range(1000)]
        handles = [hvd.allreduce_async_(tensor, name=f"small.{place}", op=hvd.Sum)
                   for place, tensor in enumerate(tensors)]
        group = hvd.grouped_allreduce([tensor.clone() for tensor in tensors] if step == 0 else
                                      [torch.ones(3)] * 1000, name=f"group {step}", op=hvd.Sum)
        assert len(group) == 1000
        for handle in handles:
            hvd.synchronize(handle)
        found = torch.stack([tensor[-1] for tensor in tensors]).tolist()
        assert found == [sum(place + step + rank for rank in _each()) * 1.0
                         for place in range(1000)], step


def tensors_of_both_kinds_are_in_flight_at_once():
    handles = []
    for number in range(40):
        place = torch.get_default_device() if number % 2 else "cpu"
        mine = torch.full((1000 + number,), float(number), device=place)
        handles.append((number, hvd.allreduce_async(mine, name=f"mixed.{number}", op=hvd.Sum)))
    for number, handle in handles:
        assert hvd.synchronize(handle).tolist() == [number * hvd.size()] * (1000 + number)


def a_group_of_two_devices_is_refused():
    if not is_cuda():
        return
    for tensors in ([torch.ones(3), torch.ones(3, device="cpu")],
                    [torch.ones(3, device="cpu"), torch.ones(3)]):
        with pytest.raises(ValueError, match="device"):
            hvd.grouped_allreduce(tensors, name="two devices", op=hvd.Sum)
    results = hvd.grouped_allreduce([torch.ones(3)] * 2, name="two devices", op=hvd.Sum)
    assert [result.tolist() for result in results] == [[hvd.size()] * 3] * 2


def a_tensor_whose_stream_is_being_captured_is_refused():
    if not is_cuda():
        return
    tensor, graph = torch.ones(5), torch.cuda.CUDAGraph()
    with pytest.raises(ValueError, match="captured into a CUDA graph"):
        with torch.cuda.graph(graph):
            doubled = tensor * 2
            hvd.allreduce_(tensor, name="captured", op=hvd.Sum)
    assert hvd.allreduce(tensor, name="captured", op=hvd.Sum).tolist() == [hvd.size()] * 5
    graph.replay()
    assert doubled.tolist() == [2.0] * 5


def ranks_that_differ_in_the_device_fail_everywhere():
    if not is_cuda() or hvd.size() == 1:
        return
    place = "cpu" if hvd.rank() == 0 else torch.get_default_device()
    begin = time.monotonic()
    with pytest.raises(hvd.HorovodInternalError, match="apart.*cuda") as caught:
        hvd.allreduce(torch.ones(3, device=place), name="apart")
    assert "host" in str(caught.value) and time.monotonic() - begin < 5.0
