"""A rank's part of a training whose gradients are one flat tensor, reduced by any method.

On CUDA a step's forward and backward pass are one CUDA graph, and gradients are staged through
pinned memory of the CPU, where every method reduces them. Several trainings, of several methods and
seeds, may go side by side, each on a stream of its own.
"""

import functools
import math
import pathlib
import sys
import time
import types
import unittest.mock

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import harness  # noqa: E402
import rivals  # noqa: E402
import scalecom.torch as hvd  # noqa: E402

WARM_UP_SHARE = 0.1  # Of the steps, for the learning rate.


class Run:
    """One training: model, optimizer, and the gradients, in `gradients` by name on the CPU."""

    def __init__(self, task, device, seed, batch):
        torch.manual_seed(seed)
        self.task, self.device = task, torch.device(device)
        self.model = task.make_model().to(self.device)
        self.order_generator = torch.Generator().manual_seed(seed)
        named = dict(self.model.named_parameters())
        self.flat = torch.nn.Parameter(torch.cat([parameter.detach().flatten()
                                                  for parameter in named.values()]))
        self.flat.grad = torch.zeros_like(self.flat)
        is_cuda = self.device.type == "cuda"
        self.host = torch.zeros(len(self.flat)).pin_memory() if is_cuda else self.flat.grad
        self.gradients = self._views(named, self.host)
        for name, values in self._views(named, self.flat.data).items():
            named[name].data = values
        for name, gradient in self._views(named, self.flat.grad).items():
            named[name].grad = gradient
        self.parameters = named
        self.batch = torch.arange(batch // hvd.size(), device=self.device)
        self.batches = self._batches(batch)
        self.stream = torch.cuda.Stream() if is_cuda else None
        self.adam_before = self.adam_after = None  # What turns gradients, around the reduction.
        self.graph = self._capture() if is_cuda else None

    @staticmethod
    def _views(named, flat):
        parts = flat.split([parameter.numel() for parameter in named.values()])
        return {name: part.view(parameter.shape)
                for (name, parameter), part in zip(named.items(), parts)}

    def _pass(self):
        self.flat.grad.zero_()
        self.task.loss(self.model, self.batch).backward()

    def _capture(self):
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._pass()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # On a stream of its own it has workspaces of its own: graphs run side by side.
        with torch.cuda.graph(graph, stream=self.stream):
            self._pass()
        for buffer, saved in zip(self.model.buffers(), buffers):
            buffer.copy_(saved)
        torch.cuda.synchronize()
        return graph

    def compute(self):
        """Starts the gradients of the next batch; wait() ends it."""
        batch = next(self.batches)
        with torch.cuda.stream(self.stream):  # Nothing where there is none.
            if self.graph is None:
                self.batch = batch
                self._pass()
            else:
                self.batch.copy_(batch)
                self.graph.replay()
            if self.adam_before is not None:
                self.adam_before.turn(self.flat.grad)
            if self.graph is not None:
                self.host.copy_(self.flat.grad, non_blocking=True)

    def wait(self):
        if self.stream is not None:
            self.stream.synchronize()

    def update(self, optimizer, rate):
        """A step of the optimizer with the reduced gradients."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.cuda.stream(self.stream):
            if self.stream is not None:
                self.flat.grad.copy_(self.host, non_blocking=True)
            if self.adam_after is not None:
                self.adam_after.turn(self.flat.grad)
            optimizer.step()

    def _batches(self, batch):
        """This rank's part of each batch, epoch after epoch."""
        while True:
            order = torch.randperm(self.task.train_count, generator=self.order_generator)
            steps = len(order) // batch
            mine = order[:steps * batch].view(steps, -1, hvd.size())[:, :, hvd.rank()]
            yield from mine.contiguous().to(self.device)

    @torch.no_grad()
    def test(self):
        """The task's measure over the test's examples, each rank's buffers averaged before."""
        self.wait()
        for place, buffer in enumerate(self.model.buffers()):
            if buffer.is_floating_point():
                buffer.copy_(hvd.allreduce(buffer.cpu(), name=f"buffer.{place}"))
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        examples = torch.arange(hvd.rank(), self.task.test_count, hvd.size(), device=self.device)
        for batch in examples.split(250):
            total, count = self.task.test(self.model, batch)
            sums += torch.tensor([float(total), count], dtype=torch.float64)
        return float(self.task.value(*hvd.allreduce(sums, name="test", op=hvd.Sum).tolist()))


def learning_rate(peak, step, steps):
    """From 0 up to the peak in a tenth of the steps, then down to 0 as a cosine."""
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak / 2 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


class Whole:
    """Every gradient as it is, or as float16: one all-reduce."""

    def __init__(self, run, name, compression):
        self.run, self.name, self.compression = run, name, compression

    def start(self):
        self.handle = hvd.allreduce_async_(self.run.host, name=self.name,
                                           compression=self.compression)

    def finish(self):
        hvd.synchronize(self.handle)


class Dense:
    """The tensors that DistributedOptimizer leaves dense when it compresses, as one group.

    others: what is left to be compressed, by name. rates: of those, likewise.
    """

    def __init__(self, run, name, compression):
        self.name = f"{name}.dense"
        self.members, self.others, self.rates = [], {}, {}
        for parameter, gradient in run.gradients.items():
            rate = compression.rate_of(parameter, run.parameters[parameter])
            if rate is None:
                self.members.append(gradient)
            else:
                self.others[f"{name}.{parameter}"] = gradient.view(-1)
                self.rates[f"{name}.{parameter}"] = rate

    def start(self):
        self.handle = hvd.grouped_allreduce_async_(self.members, name=self.name)

    def finish(self):
        hvd.synchronize(self.handle)


class ScaleCom:
    """Each parameter at its own rate. make_compression: Compression.scalecom, without its rates."""

    def __init__(self, run, name, make_compression, rate, rates):
        self.dense = Dense(run, name, make_compression(rate=rate, rates=rates))
        # An all-reduce knows the common rate alone: rates are by parameter, for optimizers.
        by_rate = {each: make_compression(rate=each) for each in set(self.dense.rates.values())}
        self.compressions = {tensor: by_rate[each] for tensor, each in self.dense.rates.items()}

    def start(self):
        self.dense.start()
        self.handles = [hvd.allreduce_async_(gradient, name=name, compression=self.compressions[name])
                        for name, gradient in self.dense.others.items()]

    def finish(self):
        self.dense.finish()
        for handle in self.handles:
            hvd.synchronize(handle)


class TopK:
    """Top-k for the tensors that ScaleCom would compress."""

    def __init__(self, run, name, rate):
        self.dense = Dense(run, name, hvd.Compression.scalecom(rate=rate))
        self.top_k = rivals.TopK(rate)

    def start(self):
        self.dense.start()
        self.started = [(gradient, self.top_k.start(gradient, name))
                        for name, gradient in self.dense.others.items()]

    def finish(self):
        self.dense.finish()
        for gradient, started in self.started:
            gradient.copy_(self.top_k.finish(started))


class PowerSGD:
    """torch's own hook, on a bucket of all gradients, over the process group of torch.

    bytes_sent: float32 elements that it gave to all-reduces, times 4.
    """

    def __init__(self, run, rank):
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
        self.hook = powerSGD_hook.powerSGD_hook
        self.state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank,
                                                 start_powerSGD_iter=10)
        self.bucket = types.SimpleNamespace(
            buffer=lambda: run.host, index=lambda: 0, is_last=lambda: True,
            gradients=lambda: list(run.gradients.values()))
        self.bytes_sent = self.elements = 0

    def start(self):
        pass

    def finish(self):
        # Where there is CUDA the hook wants to wait for the gradients' device; these are the CPU's.
        with unittest.mock.patch("torch.cuda.is_available", lambda: False):
            self.hook(self.state, self.bucket).wait()
        before, self.elements = self.elements, self.state.compression_stats()[2]
        self.bytes_sent += 4 * (self.elements - before or len(self.bucket.buffer()))


def make_rates(job, run):
    """Rates by parameter name, for Compression.scalecom; None where there is one for all."""
    if job["rates"] == "paper":
        with torch.device("meta"):
            model = run.task.make_model()
        return hvd.flops_rates(model, run.task.inputs(run.batch).to("meta"))
    return {"uniform": None, "dense embedding": {"embedding.*": None, "position.*": None},
            "dense layers": {"layers.*": None},
            "mild layers": {"layers.*norm*": None, "layers.*.bias": None, "layers.*": 10},
            "dense ends": {"lstm.weight_ih_l0": None, "out.*": None}}[job["rates"]]


def make_method(job, run, name):
    """How the gradients of a run are reduced: an object with start() and finish()."""
    method, rate = job["method"], job["rate"]
    if method in ("dense", "fp16"):
        compression = hvd.Compression.none if method == "dense" else hvd.Compression.fp16
        return Whole(run, name, compression)
    if method == "topk":
        return TopK(run, name, rate)
    if method == "powersgd":
        return PowerSGD(run, rate)
    make_compression = functools.partial(hvd.Compression.scalecom, beta=job["beta"], mode=method,
                                         warmup_steps=job["warmup_steps"])
    return ScaleCom(run, name, make_compression, rate, make_rates(job, run))


class Adam:
    """Turns gradients into the direction of Adam's step (Kingma and Ba 2014), in place.

    steps: of them the second moment learns; then it stays, and what follows is linear in the
    gradients, as the residuals of sparse ones need it (1-bit Adam, Tang et al. 2021). None: all.
    """

    def __init__(self, flat, steps=None, betas=(0.9, 0.999)):
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.steps, self.betas, self.step = steps, betas, 0

    @torch.no_grad()
    def turn(self, gradient):
        self.step += 1
        learned = self.step if self.steps is None else min(self.step, self.steps)
        self.first.lerp_(gradient, 1 - self.betas[0])
        if learned == self.step:
            self.second.lerp_(gradient.square(), 1 - self.betas[1])
        root = (self.second / (1 - self.betas[1] ** learned)).sqrt_().add_(1e-8)
        torch.div(self.first / (1 - self.betas[0] ** self.step), root, out=gradient)


def make_optimizer(job, run):
    """By the job's "optimizer":

    sgd: momentum 0.9; weight decay 0.0005, none for the language model.
    adamw: betas 0.9 and 0.98, or as "adamw 0.999" says. On reduced gradients, as all but the last.
    adamw kept: the second moment learns in the first tenth of the steps only.
    adamw local: each rank's own, and its directions are reduced.
    """
    name = job["optimizer"]
    if name == "sgd":
        decay = 0.0 if job["model"] == "transformer" else 5e-4
        return torch.optim.SGD([run.flat], momentum=0.9, weight_decay=decay)
    if name == "adamw kept":
        run.adam_after = Adam(run.flat, max(1, int(WARM_UP_SHARE * job["steps"])))
    elif name == "adamw local":
        run.adam_before = Adam(run.flat)
    else:
        second = float(name.removeprefix("adamw") or 0.98)
        return torch.optim.AdamW([run.flat], betas=(0.9, second), weight_decay=0.01)
    # With a direction for a gradient this is AdamW's step.
    return torch.optim.SGD([run.flat], weight_decay=0.01)


class Training:
    """A job's runs, one for each seed.

    bytes_sent: by this rank since the start, in all runs together.
    waited_s: for the device's gradients, likewise.
    """

    def __init__(self, job, task, device):
        self.job = job
        self.runs = [Run(task, device, seed, job["batch"]) for seed in job["seeds"]]
        self.methods = [make_method(job, run, f"{job['name']}.{seed}")
                        for run, seed in zip(self.runs, job["seeds"])]
        self.optimizers = [make_optimizer(job, run) for run in self.runs]
        self.bytes_sent, self.waited_s = 0, 0.0

    def step(self, rate, is_last):
        """Averages the gradients that the runs have computed, learns from them, and starts those of the
        next batches: the device works on one run's while others are reduced."""
        before = self._bytes()
        for run, method in zip(self.runs, self.methods):
            begin = time.perf_counter()
            run.wait()
            self.waited_s += time.perf_counter() - begin
            method.start()
        for run, method, optimizer in zip(self.runs, self.methods, self.optimizers):
            method.finish()
            run.update(optimizer, rate)
            if not is_last:
                run.compute()
        self.bytes_sent += self._bytes() - before

    def _bytes(self):
        # Of what does not send through scalecom, the method itself counts.
        return hvd.stats()["data_bytes_sent"] + sum(getattr(method, "bytes_sent", 0)
                                                    for method in self.methods)


def train(jobs, task, device):
    """Trains jobs of equal batch and steps side by side. Returns their Trainings."""
    trainings = [Training(job, task, device) for job in jobs]
    runs = [run for training in trainings for run in training.runs]
    steps = jobs[0]["steps"]
    if runs[0].stream is not None:
        torch.cuda.synchronize()  # What was made so far was not made on the runs' streams.
    begin = time.perf_counter()
    for run in runs:
        run.compute()
    for step in range(steps):
        # One job after the other, so that each one's bytes can be told.
        for training in trainings:
            training.step(learning_rate(training.job["lr"], step, steps), is_last=step + 1 == steps)
        if (step + 1) % 500 == 0 and hvd.rank() == 0:
            per_step = [1000 * seconds / (step + 1) for seconds in (
                time.perf_counter() - begin, sum(each.waited_s for each in trainings))]
            harness.say(f"{jobs[0]['model']}, {len(runs)} runs: step {step + 1} of {steps}, "
                        f"{per_step[0]:.1f} ms each, {per_step[1]:.1f} of them waiting for the device")
    return trainings
