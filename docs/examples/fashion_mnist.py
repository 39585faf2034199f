"""Trains a small convolutional network on Fashion-MNIST, dense or with ScaleCom.

    python fashion_mnist.py
    mpirun -np 4 python fashion_mnist.py --compression scalecom

On GPUs where there are any, a rank on each in turn. The data is Debian's package
dataset-fashion-mnist; where it is not installed, scikit-learn's 8 x 8 digits take its place, and the
script says so. All ranks draw the same batches from the seed, each takes its part.
"""

import argparse
import hashlib
import json
import os
import pathlib
import statistics
import sys
import time

import torch
from torch import nn

import fashion_mnist_data
import scalecom.torch as hvd


def load_data():
    """Name, training and test images (uint8, N x 1 x H x W) and labels."""
    name, *parts = fashion_mnist_data.load_data()
    return (name, *((torch.from_numpy(images.copy()).unsqueeze(1),
                     torch.from_numpy(labels).long())
                    for images, labels in parts))


def make_model():
    """Convolutions and a large fully connected layer: 1.02 million parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 640), nn.ReLU(), nn.Linear(640, 10))


def to_input(images):
    return (images.float() - 72.9) / 90.0


class Progress:
    """A bar on rank 0's standard error."""

    def __init__(self, total, is_bar):
        self.total = total
        self.shown = -1
        self.is_on = hvd.rank() == 0
        self.is_bar = is_bar

    def show(self, done, loss):
        percent = 100 * done // self.total
        if not self.is_on or percent == self.shown:
            return
        self.shown = percent
        if not self.is_bar and percent % 20:
            return
        bar = "#" * (percent // 4)
        end = "\r" if self.is_bar and percent < 100 else "\n"
        print(f"  [{bar:<25}] {percent:3d} %  loss {loss:.3f}", end=end, file=sys.stderr, flush=True)


def find_device():
    """This rank's GPU where there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", hvd.local_rank() % torch.cuda.device_count())


def train(arguments, model, optimizer, scheduler, images, labels):
    """Returns seconds, the time of each step, and the bytes this rank sent in a step."""
    rank, size = hvd.rank(), hvd.size()
    criterion = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(arguments.seed)
    steps_per_epoch = len(images) // arguments.batch_size
    total = steps_per_epoch * arguments.epochs
    progress = Progress(total, arguments.progress == "bar")
    step_times = []
    hvd.barrier()
    sent_before = hvd.stats()["data_bytes_sent"]
    begin = time.perf_counter()
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps_per_epoch):
            step_begin = time.perf_counter()
            batch = order[step * arguments.batch_size:(step + 1) * arguments.batch_size][rank::size]
            optimizer.zero_grad()
            loss = criterion(model(to_input(images[batch])), labels[batch])
            loss.backward()
            optimizer.step()
            scheduler.step()
            step_times.append(time.perf_counter() - step_begin)
            progress.show(epoch * steps_per_epoch + step + 1, loss.item())
    seconds = time.perf_counter() - begin
    return seconds, step_times, (hvd.stats()["data_bytes_sent"] - sent_before) / total


@torch.no_grad()
def test_accuracy(model, images, labels):
    model.eval()
    rank, size = hvd.rank(), hvd.size()
    right = 0
    for batch in torch.arange(rank, len(images), size).split(500):
        right += (model(to_input(images[batch])).argmax(1) == labels[batch]).sum()
    return hvd.allreduce(torch.as_tensor(right), name="right", op=hvd.Sum).item() / len(images)


def checksum(model):
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compression", choices=["none", "scalecom"], default="none")
    parser.add_argument("--rate", type=int, default=64, help="elements of which one is sent")
    parser.add_argument("--beta", type=float, default=1.0, help="low-pass filter, in (0, 1]")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--progress", choices=["bar", "lines"],
                        default="bar" if sys.stderr.isatty() else "lines")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.epochs < 1 or arguments.batch_size < 1:
        parser.error("--epochs and --batch-size must be 1 or more")
    return arguments


def main():
    arguments = parse_arguments()
    hvd.init()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // hvd.local_size()))
    torch.manual_seed(arguments.seed)
    device = find_device()
    data_name, *parts = load_data()
    (images, labels), (test_images, test_labels) = (
        [tensor.to(device) for tensor in part] for part in parts)
    model = make_model().to(device)
    compression = hvd.Compression.none
    if arguments.compression == "scalecom":
        # 98 % of the parameters are in one layer. The first layer stays dense and the other small
        # ones are compressed mildly: that costs few bytes and is worth half a point of accuracy.
        compression = hvd.Compression.scalecom(
            rate=arguments.rate, beta=arguments.beta,
            rates={"0.weight": None, "3.weight": 4, "9.weight": 4})
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.lr, momentum=0.9)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters(),
                                         compression=compression)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    steps = arguments.epochs * (len(images) // arguments.batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=arguments.lr,
                                                    total_steps=steps + 1, pct_start=0.2)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if hvd.rank() == 0:
        print(f"{data_name}: {len(images)} images, {parameters} parameters, {hvd.size()} ranks, "
              f"compression {arguments.compression}", file=sys.stderr, flush=True)
    seconds, step_times, bytes_per_step = train(arguments, model, optimizer, scheduler, images,
                                                labels)
    figures = {
        "test_accuracy": test_accuracy(model, test_images, test_labels),
        "seconds": seconds,
        "step_ms": 1000 * statistics.median(step_times),
        "bytes_per_step": bytes_per_step,
        "parameters": parameters,
        "ranks": hvd.size(),
        "parameter_checksums": hvd.allgather_object(checksum(model)),
        "data": data_name,
    }
    if hvd.rank() == 0:
        print(f"test accuracy {100 * figures['test_accuracy']:.2f} %, {seconds:.1f} s, "
              f"{figures['step_ms']:.1f} ms a step, {bytes_per_step:.0f} bytes sent a step")
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    hvd.shutdown()


if __name__ == "__main__":
    main()
