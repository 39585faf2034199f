"""What a session chooses by, and where it has it from."""

import torch

import scalecom.torch as hvd


def show():
    hvd.init()
    session = hvd.info()["session"]
    return session["tuning_source"], session["tuning"]


def reduce(device):
    """All-reduces of 4 KiB and 4 MiB, of which NCCL's log tells the algorithms where it is asked to."""
    hvd.init()
    for count in (1 << 10, 1 << 20):
        tensor = torch.ones(count, device=device)
        assert (hvd.allreduce(tensor, name=f"tuned {count}", op=hvd.Sum) == hvd.size()).all()
    hvd.barrier()
    hvd.shutdown()


def autotune(steps):
    """Steps of a few tensors, then what is in force."""
    hvd.init()
    for step in range(steps):
        handles = [hvd.allreduce_async(torch.full((1000 * place,), float(hvd.rank())),
                                       name=f"t{place}", op=hvd.Sum) for place in range(1, 5)]
        for handle in handles:
            result = hvd.synchronize(handle)
            assert torch.all(result == hvd.size() * (hvd.size() - 1) / 2), step
    return {entry["variable"]: (entry["value"], entry["source"])
            for entry in hvd.info()["settings"]}
