"""Health figures and guards from Python, against their definitions in numpy."""

import threading

import numpy
import torch

import scalecom.torch as hvd
from programs.clt_k import Reference

_SHAPE, _RATE = (8, 10), 10  # 8 chunks: all of them are sampled.


def _gradients(step):
    return numpy.stack([numpy.random.default_rng([step, rank]).standard_normal(_SHAPE)
                        .astype(numpy.float32) for rank in range(hvd.size())])


def _mean(values):
    return float(numpy.mean(values))


def _expected(before, gradients, reference, result):
    """Figures of a step of `reference` from the residuals before it."""
    flat = gradients.reshape(len(gradients), -1).astype(numpy.float64)
    p = before + flat
    chosen = result.ravel() != 0
    errors = [numpy.linalg.norm(one[~chosen]) / numpy.linalg.norm(one) for one in p]
    ratios = [numpy.linalg.norm(m) / numpy.linalg.norm(g)
              for m, g in zip(reference.residuals, flat)]
    magnitude = numpy.abs(p.sum(0))
    top = numpy.argsort(-magnitude)[:8]
    best = [begin + magnitude[begin:begin + _RATE].argmax() for begin in range(0, 80, _RATE)]
    return {"relative_error": errors[hvd.rank()], "mean_relative_error": _mean(errors),
            "residual_to_gradient": ratios[hvd.rank()],
            "mean_residual_to_gradient": _mean(ratios),
            "hamming_distance": 1 - chosen[top].mean(), "chunk_overlap": chosen[best].mean(),
            "byte_true_rate": 2 * 4 * 80 / (2 * (4 * 8 + 1) + 8)}


def figures(period):
    """Two periods of steps: the figures appear with the first and follow the last sampled step."""
    hvd.init()
    for mode in ("cyclic", "sharded"):
        for beta in (1.0, 0.3, 0.1):
            name = f"{mode} {beta}"
            compression = hvd.Compression.scalecom(rate=_RATE, beta=beta, mode=mode)
            reference = Reference(hvd.size(), _SHAPE, _RATE, beta, mode)
            for step in range(2 * period + 1):
                assert (name in hvd.compression_stats()) == (step >= period)
                before, gradients = reference.residuals, _gradients(step)
                mine = torch.from_numpy(gradients[hvd.rank()].copy())
                hvd.allreduce_(mine, name=name, compression=compression)
                result = reference.reduce(gradients.astype(numpy.float64))
                if (step + 1) % period == 0:
                    wanted = _expected(before, gradients, reference, result)
                    stats = hvd.compression_stats()[name]
                    for figure, value in wanted.items():
                        assert abs(stats[figure] - value) <= 2e-5 * (1 + value), (figure, stats)
            stats = hvd.compression_stats()[name]
            assert (stats["step"], stats["elements"], stats["rate"], stats["halvings"],
                    stats["sampled_chunks"]) == (2 * period - 1, 80, _RATE, 0, 8)
    hvd.shutdown()


def train(guard=None, steps=30):
    """A layer whose gradients cancel between two ranks but for a little; returns its figures, how
    many elements travelled in the last step, and the counter."""
    hvd.init()
    model = torch.nn.Linear(40, 50, bias=False)
    compression = hvd.Compression.scalecom(rate=50, mode="cyclic", guard=guard)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.0), op=hvd.Sum,
                                         named_parameters=model.named_parameters(),
                                         compression=compression)
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        common, noise = (torch.randn(50, 40, generator=generator) for _ in range(2))
        (model.weight * (0.01 * common + (-1) ** hvd.rank() * noise)).sum().backward()
        optimizer.step()
    travelled = int((model.weight.grad != 0).sum())
    stats, halvings = hvd.compression_stats(), hvd.stats()["guard_halvings"]
    hvd.shutdown()
    return [stats, travelled, halvings]


def read_while_training():
    """Figures are read from another thread all the time."""
    hvd.init()
    reads, is_over = [], threading.Event()

    def read():
        while not is_over.is_set():
            reads.append(hvd.compression_stats())

    reader = threading.Thread(target=read)
    reader.start()
    compression = hvd.Compression.scalecom(rate=10)
    for step in range(200):
        hvd.allreduce_(torch.randn(1000), name="w", compression=compression)
    is_over.set()
    reader.join()
    steps = [read["w"]["step"] for read in reads if read]
    assert steps == sorted(steps)
    assert hvd.compression_stats()["w"]["step"] == 199
    hvd.shutdown()
    return len(reads)
