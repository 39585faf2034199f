"""Training as Horovod's users write it: digits drawn with noise, a small convolution, two epochs."""

import argparse
import multiprocessing

import horovod
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import horovod.torch as hvd

parser = argparse.ArgumentParser(description="Digits on Horovod")
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--lr", type=float, default=0.02)
parser.add_argument("--fp16-allreduce", action="store_true")
parser.add_argument("--use-adasum", action="store_true")
parser.add_argument("--gradient-predivide-factor", type=float, default=1.0)
parser.add_argument("--workers", type=int, default=0)


class Digits(Dataset):
    """Ten fixed patterns of 12 x 12 pixels under noise."""

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        patterns = torch.randn(10, 1, 12, 12, generator=torch.Generator().manual_seed(7))
        self.labels = torch.arange(count) % 10
        self.images = patterns[self.labels] + 0.5 * torch.randn(count, 1, 12, 12,
                                                                generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return self.images[place], self.labels[place]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, kernel_size=3)
        self.classes = torch.nn.Linear(100, 10)

    def forward(self, images):
        pooled = F.relu(F.max_pool2d(self.convolution(images), 2))
        return F.log_softmax(self.classes(pooled.flatten(1)), dim=1)


def loader_of(dataset, args, workers=0):
    sampler = DistributedSampler(dataset, num_replicas=hvd.size(), rank=hvd.rank())
    context = multiprocessing.get_context("spawn") if workers else None
    return DataLoader(dataset, args.batch_size, sampler=sampler, num_workers=workers,
                      multiprocessing_context=context, persistent_workers=workers > 0)


def train(model, optimizer, loader, epoch):
    model.train()
    loader.sampler.set_epoch(epoch)
    for images, labels in loader:
        optimizer.zero_grad()
        F.nll_loss(model(images), labels).backward()
        optimizer.step()


def metric_average(value, name):
    return hvd.allreduce(torch.tensor(value), name=name).item()


def test(model, loader):
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    accuracy = metric_average(right / len(loader.sampler), "avg_accuracy")
    if hvd.rank() == 0:
        print(f"horovod {horovod.__version__}, test accuracy {accuracy:.3f}", flush=True)


def main():
    args = parser.parse_args()
    hvd.init()
    torch.manual_seed(hvd.rank())  # Rank 0's parameters are broadcast.
    torch.set_num_threads(1)
    training = loader_of(Digits(480, seed=1), args, args.workers)
    testing = loader_of(Digits(200, seed=2), args)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.5)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0, model=model)
    optimizer = hvd.DistributedOptimizer(
        optimizer, named_parameters=model.named_parameters(),
        compression=hvd.Compression.fp16 if args.fp16_allreduce else hvd.Compression.none,
        op=hvd.Adasum if args.use_adasum else hvd.Average,
        gradient_predivide_factor=args.gradient_predivide_factor)
    done = hvd.broadcast(torch.tensor(-hvd.rank()), root_rank=0, name="resume_from_epoch").item()
    for epoch in range(done + 1, args.epochs + 1):
        train(model, optimizer, training, epoch)
        test(model, testing)
    parameters = torch.cat([value.detach().flatten() for value in model.parameters()])
    everyone = hvd.allgather(parameters.unsqueeze(0), process_set=hvd.global_process_set)
    print(f"rank {hvd.rank()}: equal {bool((everyone == parameters).all())}", flush=True)


if __name__ == "__main__":
    main()
