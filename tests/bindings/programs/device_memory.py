"""Claims about a GPU that is nearly full. Each function is called on every rank, in this order; the last
one ends the session. Elsewhere there is nothing to see."""

import contextlib

import pytest
import torch

import scalecom.torch as hvd

MIB = 1 << 20
LARGE_MIB = 512


def _is_cuda():
    return torch.get_default_device().type == "cuda"


def _is_last():
    return hvd.rank() == hvd.size() - 1


def _ones(mib):
    return torch.ones(mib * MIB // 4)


@contextlib.contextmanager
def _nearly_full():
    """One rank takes what the GPU has, but for what a batch of 96 MiB needs on each that shares it, and 40
    MiB: what comes beside such a batch does not fit on any, and fits behind it. Alone it has 80 MiB."""
    left = max(136 * hvd.size(), 176) * MIB
    hvd.barrier()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    hvd.barrier()
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - left if _is_last() else 0, dtype=torch.uint8)
    hvd.barrier()
    print(f"rank {hvd.rank()}: {torch.cuda.mem_get_info()[0] / MIB:.0f} of {free / MIB:.0f} MiB are free")
    yield
    del taken
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    hvd.barrier()


def _is_average(result):
    """Of ones."""
    return bool((result == 1).all())


def operations_wait_for_the_memory_of_those_before_them():
    if not _is_cuda():
        return
    compression = hvd.Compression.scalecom(rate=100)
    # What NCCL takes at first, it has then.
    for mib in (1, 16):
        hvd.allreduce(_ones(mib), name="warm dense")
        hvd.allreduce(_ones(mib), name=f"warm compressed {mib}", compression=compression)
        hvd.allgather(_ones(mib), name="warm gathered")
    first, dense, part, compressed = _ones(96), _ones(128), _ones(64 // hvd.size()), _ones(96)
    started = {
        "dense": lambda: hvd.allreduce_async_(dense, name="dense"),
        "gathered": lambda: hvd.allgather_async(part, name="gathered"),
        "compressed": lambda: hvd.allreduce_async_(compressed, name="compressed",
                                                   compression=compression),
    }
    for kind, start in started.items():
        spare = torch.empty(64 * MIB, dtype=torch.uint8)
        with _nearly_full():
            del spare  # For torch's own result of a gather.
            first.fill_(1.0)
            torch.cuda.synchronize()
            torch.cuda._sleep(200_000_000)
            before = hvd.allreduce_async_(first, name="first")
            handle = start()
            result = hvd.synchronize(handle)
            assert _is_average(hvd.synchronize(before)), kind
            if kind == "compressed":
                assert int((result != 0).sum()) == -(-compressed.numel() // 100)
            else:
                assert _is_average(result), kind


def a_residual_without_memory_fails_its_tensor_alone_and_everywhere():
    if not _is_cuda():
        return
    compression = hvd.Compression.scalecom(rate=100)
    large, small = _ones(LARGE_MIB), _ones(1)
    with _nearly_full():
        with pytest.raises(hvd.HorovodInternalError) as caught:
            hvd.allreduce_(large, name="large", compression=compression)
        message = str(caught.value)
        print(f"rank {hvd.rank()}: {message}")
        for part in ("tensor large on rank", f"its residual takes {LARGE_MIB * MIB} bytes", "are free",
                     "Compression.none"):
            assert part in message, f"{part!r} is not in: {message}"
        assert _is_average(hvd.allreduce_(small, name="small"))
    result = hvd.allreduce_(large, name="large", compression=compression)
    assert int((result != 0).sum()) == -(-large.numel() // 100)


def a_batch_that_does_not_fit_alone_fails_everywhere():
    """And the session, of which this is the last claim."""
    if not _is_cuda():
        return
    large = _ones(LARGE_MIB)
    try:
        with _nearly_full():
            with pytest.raises(hvd.HorovodInternalError) as caught:
                hvd.allreduce_(large, name="alone", prescale_factor=0.5)
            message = str(caught.value)
            print(f"rank {hvd.rank()}: {message}")
            for part in ("first: alone", f"a buffer of {LARGE_MIB * MIB} bytes on the device", "are free",
                         "SCALECOM_FUSION_THRESHOLD"):
                assert part in message, f"{part!r} is not in: {message}"
    except hvd.HorovodInternalError:
        pass  # The barrier at the end has no session.
