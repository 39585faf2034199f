"""A budget of bytes against the bytes that are counted."""

import torch
from torch import nn

import scalecom.torch as hvd


def is_kept(bytes_per_step, mode, values):
    """Bytes that the ranks sent a step, on average, of a budget for them."""
    hvd.init()
    model = nn.Sequential(nn.Linear(500, 1500), nn.Linear(1500, 1000))
    rates = hvd.budget_rates(model.named_parameters(), bytes_per_step, values=values)
    compression = hvd.Compression.scalecom(rates=rates, mode=mode, values=values)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1),
                                         model.named_parameters(), compression=compression)
    hvd.barrier()
    before = hvd.stats()["data_bytes_sent"]
    steps = 2 * hvd.size()  # Every rank leads twice.
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 500)).square().mean().backward()
        optimizer.step()
    sent = hvd.stats()["data_bytes_sent"] - before
    everyone = hvd.allgather(torch.tensor([sent]), name="sent")
    average = everyone.sum().item() / steps / hvd.size()
    hvd.barrier()
    hvd.shutdown()
    return {"sent": average, "rate": rates["0.weight"]}
