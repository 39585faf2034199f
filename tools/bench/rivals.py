"""Other ways to send less, over the same runtime, to measure ScaleCom against.

Each is called as rival(gradient, name) on every rank with a one-dimensional float32 tensor and
returns the average that the optimizer would get. Residuals are kept by name.
"""

import torch

import scalecom.torch as hvd


class TopK:
    """The k largest of gradient + residual of each rank, with error feedback, by all-gather.

    Every rank chooses for itself, so a rank sends (n-1) k (4 + 4) bytes by a ring: values and 32-bit
    indices of all others pass through it ("gradient build-up").
    """

    def __init__(self, rate):
        self.rate = rate
        self.residuals = {}

    def __call__(self, gradient, name):
        return self.finish(self.start(gradient, name))

    def start(self, gradient, name):
        """Starts a reduction, so that those of many tensors travel together; see finish()."""
        p = self.residuals.setdefault(name, torch.zeros_like(gradient)) + gradient
        k = -(-p.numel() // self.rate)
        indices = p.abs().topk(k, sorted=False).indices
        values = p[indices]
        handles = [hvd.allgather_async(indices.to(torch.int32), name=f"{name}.indices"),
                   hvd.allgather_async(values, name=f"{name}.values")]
        p[indices] = 0.0
        self.residuals[name] = p
        return handles, torch.zeros_like(gradient)

    @staticmethod
    def finish(started):
        """The average of what start() started."""
        handles, total = started
        all_indices, all_values = map(hvd.synchronize, handles)
        total.index_add_(0, all_indices.long(), all_values)
        return total.div_(hvd.size())


class RandomK:
    """k coordinates that all ranks draw alike, with error feedback: nothing is sent to agree."""

    def __init__(self, rate):
        self.rate = rate
        self.residuals = {}
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, gradient, name):
        p = self.residuals.setdefault(name, torch.zeros_like(gradient)) + gradient
        k = -(-p.numel() // self.rate)
        indices = torch.randperm(p.numel(), generator=self.generator)[:k]
        values = hvd.allreduce(p[indices], name=f"{name}.values")
        p[indices] = 0.0
        self.residuals[name] = p
        total = torch.zeros_like(gradient)
        total[indices] = values
        return total


class Reduce:
    """scalecom's own all-reduce with a compression."""

    def __init__(self, compression):
        self.compression = compression

    def __call__(self, gradient, name):
        return hvd.allreduce(gradient, name=name, compression=self.compression)
