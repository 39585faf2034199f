"""Time of a step of DistributedDataParallel over Gloo, over torch.distributed's backend "scalecom",
and over that with ScaleCom's hook. The three take turns in one job; it prints medians and quartiles:

    mpirun -np 2 python tools/experiments/ddp_step.py
"""

import argparse
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import scalecom.torch as hvd

WIDTH = 1824  # Three layers of that width have 10 million parameters.


def _model(group, compression=None):
    torch.manual_seed(1)
    net = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())])
    model = DistributedDataParallel(net, process_group=group)
    if compression is not None:
        model.register_comm_hook(hvd.DDPState(model, compression), hvd.ddp_hook)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def _step(model, optimizer, inputs):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="steps of each kind")
    parser.add_argument("--samples", type=int, default=32, help="of a rank's batch")
    options = parser.parse_args()
    dist.init_process_group("scalecom", init_method="scalecom://")
    kinds = {"gloo": _model(dist.new_group(backend="gloo")),
             "scalecom backend": _model(None),
             "scalecom backend, ddp_hook with ScaleCom 100": _model(
                 None, hvd.Compression.scalecom(rate=100))}
    inputs = torch.randn(options.samples, WIDTH)
    times = {name: [] for name in kinds}
    for turn in range(options.rounds + 5):
        for name, (model, optimizer) in kinds.items():
            hvd.barrier()
            begin = time.perf_counter()
            _step(model, optimizer, inputs)
            if turn >= 5:
                times[name].append((time.perf_counter() - begin) * 1e3)
    if hvd.rank() == 0:
        for name, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{name}: median {middle:.1f} ms, quartiles {low:.1f} to {high:.1f} ms")
    hvd.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
