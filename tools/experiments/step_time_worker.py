"""A rank of tools/experiments/step_time: whole training steps with methods that take turns."""

import json
import pathlib
import sys
import time

import torch
from torch.nn.parallel import DistributedDataParallel

import tasks

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import scalecom.torch as hvd  # noqa: E402

RATE = 100
MODELS = {"resnet20": tasks.resnet20, "perceptron": tasks.perceptron}


class Named(torch.nn.Module):
    """A model whose parameters' names begin with the method's: residuals are kept by name."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)
        self.inner = name

    def forward(self, inputs):
        return self._modules[self.inner](inputs)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


def alone(name, model):
    """No communication: what the computation takes while the other ranks compute as well."""
    return model, sgd(model)


def by_optimizer(compression):
    def make(name, model):
        model = Named(name, model)
        return model, hvd.DistributedOptimizer(
            sgd(model), named_parameters=model.named_parameters(), compression=compression)
    return make


def by_ddp(power_rank):
    """torch's own DistributedDataParallel over Gloo: dense, or with its PowerSGD hook."""
    def make(name, model):
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
        # The hook goes on in Gloo's threads: with several buckets its all-reduces would meet in
        # another order on another rank, and Gloo aborts.
        model = DistributedDataParallel(model, bucket_cap_mb=1000 if power_rank else None)
        if power_rank:
            model.register_comm_hook(powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=power_rank, start_powerSGD_iter=2),
                powerSGD_hook.powerSGD_hook)
        return model, sgd(model)
    return make


def scalecom(mode, values="float32"):
    return by_optimizer(hvd.Compression.scalecom(rate=RATE, mode=mode, values=values))


METHODS = {"no communication": alone, "dense": by_optimizer(hvd.Compression.none),
           "float16": by_optimizer(hvd.Compression.fp16), "ScaleCom cyclic": scalecom("cyclic"),
           "ScaleCom sharded": scalecom("sharded"),
           "ScaleCom hierarchical": scalecom("hierarchical"), "ScaleCom auto": scalecom("auto"),
           "ScaleCom sharded, float16": scalecom("sharded", "float16"),
           "torch dense (Gloo)": by_ddp(0), "PowerSGD rank 1 (Gloo)": by_ddp(1),
           "PowerSGD rank 4 (Gloo)": by_ddp(4)}


def step(model, optimizer, inputs, labels):
    """Seconds of this rank's step. The barrier before it keeps the ranks together."""
    hvd.barrier()
    begin = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    return time.perf_counter() - begin


def main():
    options = json.loads(sys.argv[1])
    hvd.init()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{options['store']}",
                                         rank=hvd.rank(), world_size=hvd.size())
    torch.manual_seed(1)
    state = MODELS[options["model"]]().state_dict()
    made = {}
    for name in options["methods"]:
        model = MODELS[options["model"]]()
        model.load_state_dict(state)
        made[name] = METHODS[name](name.replace(".", " "), model)
    generator = torch.Generator().manual_seed(hvd.rank())
    inputs = torch.randn(options["batch"], 1, 28, 28, generator=generator)
    labels = torch.randint(10, (options["batch"],), generator=generator)
    times = {name: [] for name in made}
    sent = dict.fromkeys(made, 0)
    limit = time.monotonic() + options["limit_s"]
    for turn in range(-options["warm_up"], options["rounds"]):
        for name, (model, optimizer) in made.items():
            before = hvd.stats()["data_bytes_sent"]
            seconds = step(model, optimizer, inputs, labels)
            sent[name] = hvd.stats()["data_bytes_sent"] - before
            if turn >= 0:
                times[name].append(seconds)
        is_over = torch.tensor([float(time.monotonic() > limit)])
        if hvd.allreduce(is_over, name="is over", op=hvd.Max).item() and turn >= 2:
            break
    everyone = hvd.allgather_object((times, sent), name="times")
    if hvd.rank() == 0:
        # A step takes as long as on the rank that is last.
        slowest = {name: [max(row) for row in zip(*(part[name] for part, _ in everyone))]
                   for name in made}
        bytes_sent = {name: sum(part[name] for _, part in everyone) / hvd.size() for name in made}
        pathlib.Path(options["report"]).write_text(json.dumps({
            "times": slowest, "bytes": bytes_sent,
            "parameters": sum(values.numel() for values in model.parameters())}))
    hvd.barrier()
    torch.distributed.destroy_process_group()
    hvd.shutdown()


if __name__ == "__main__":
    main()
