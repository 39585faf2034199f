"""What becomes of batches on a device that the application has nearly filled."""

import torch

import scalecom.torch as hvd
from scalecom.exceptions import HorovodInternalError

COUNT = 6 << 20
BATCHES = 8
BLOCK_BYTES = 32 << 20


def _fill(blocks_left):
    """Takes what there is, but for so many blocks."""
    held = []
    try:
        while True:
            held.append(torch.empty(BLOCK_BYTES, dtype=torch.uint8))
    except torch.OutOfMemoryError:
        pass
    del held[-blocks_left:]
    torch.cuda.empty_cache()
    return held


def reduce(device):
    """Batches of 48 MiB, of which the device has room for three; then one whose residual has no room.
    Returns the error of that one."""
    torch.set_default_device(device)
    hvd.init()
    mine = hvd.rank() + 1.0
    groups = [[torch.full((COUNT,), mine * place) for _ in range(2)] for place in range(BATCHES)]
    large = torch.ones(64 << 20)
    hvd.allreduce_(torch.ones(10), name="connects", op=hvd.Sum)
    held = _fill(5)
    hvd.barrier()
    handles = [hvd.grouped_allreduce_async_(group, name=f"group.{place}", op=hvd.Sum)
               for place, group in enumerate(groups)]
    for place, handle in enumerate(handles):
        hvd.synchronize(handle)
        wanted = place * hvd.size() * (hvd.size() + 1) / 2
        assert all(tensor.min() == wanted and tensor.max() == wanted for tensor in groups[place]), place
    try:
        hvd.allreduce_(large, name="large", op=hvd.Sum,
                       compression=hvd.Compression.scalecom(rate=100, warmup_steps=0))
    except HorovodInternalError as error:
        return len(held), str(error)
    return len(held), "no error"
