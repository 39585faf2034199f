"""Trains a line elastically and writes down each step: elastic_training.py FOLDER JSON

Every rank has the whole data, so that the loss of a step does not depend on the number of ranks. Where the
options say so, ranks hold in front of a step until FOLDER has a file `go`.
"""

import json
import os
import pathlib
import socket
import sys
import time

import torch

import scalecom.torch as hvd

def data(width=8):
    """(inputs, targets, learning rate)"""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, width, generator=generator)
    return inputs, inputs @ torch.arange(float(width)), 0.02 / width


def residual_sum():
    return sum(one.sum().item() for one in hvd.compression_state().values())


class Journal:
    """Lines of JSON, one file a process."""

    def __init__(self, folder):
        self._file = open(pathlib.Path(folder, f"{os.getpid()}.log"), "a", buffering=1)

    def write(self, **facts):
        self._file.write(json.dumps({"pid": os.getpid(), "time": time.monotonic(), "rank": hvd.rank(),
                                     "size": hvd.size(), "local_rank": hvd.local_rank(),
                                     "host": socket.gethostname(), **facts}) + "\n")


def hold(folder, journal):
    journal.write(holds=True)
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.02)  # A file tells nobody that it is there.


def make_mistake(kind, rank):
    if kind == "shape":
        hvd.allreduce(torch.ones(2 + rank), name="mistake")
    elif kind == "exception":
        raise KeyError("no such column")
    elif kind == "endless":
        raise hvd.HorovodInternalError("again and again")


def main():
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    hvd.init()
    journal = Journal(folder)
    inputs, targets, rate = data(options.get("width", 8))
    model = torch.nn.Linear(options.get("width", 8), 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.constant_(model.bias, float(os.getpid() % 7))  # sync() has to mend it.
    if hvd.rank() == 0:
        torch.nn.init.zeros_(model.bias)
    compression = hvd.Compression.scalecom(**options["compression"]) if options.get(
        "compression") else hvd.Compression.none
    op = getattr(hvd, options.get("op", "Average"))
    if op == hvd.Sum:
        rate /= hvd.size()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5),
        named_parameters=model.named_parameters(), compression=compression, op=op)
    sampler = hvd.elastic.ElasticSampler(range(options.get("indices", 0)), shuffle=True, seed=3)
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler, step=0)
    state.register_reset_callbacks([lambda: journal.write(reset=state.step)])

    @hvd.elastic.run
    def train(state):
        begin = state.step
        iter(state.sampler)  # As a loader begins.
        journal.write(begins=begin, residual=residual_sum())
        while state.step < options["steps"]:
            if state.step == options.get("hold"):
                hold(folder, journal)
            state.optimizer.zero_grad()
            loss = (state.model(inputs).squeeze() - targets).square().mean()
            loss.backward()
            if options.get("mistake") and state.step == 5:
                make_mistake(options["mistake"], hvd.rank())
            if options.get("indices"):
                state.sampler.record_batch(state.step - begin, 1)
            state.optimizer.step()
            journal.write(step=state.step, loss=loss.item(), residual=residual_sum())
            state.step += 1
            time.sleep(options.get("pause", 0.0))
            if state.step % options.get("commit_every", 1) == 0:
                state.commit()
                journal.write(commit=state.step)
        return set().union(*hvd.allgather_object(state.sampler.processed_indices))

    processed = train(state)
    journal.write(ended=state.step, processed=sorted(processed))


if __name__ == "__main__":
    main()
