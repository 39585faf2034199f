"""Claims about CUDA graphs that the application captures while other threads of it reduce. A capture
of torch's ends with an error at any call in the process that might have to wait for the device; on the
CPU there is none. Each function is called on every rank of a job, in this order."""

import os
import threading

import torch
from programs.claims import is_cuda

import scalecom.torch as hvd

LIMIT_S = 60
COUNT = 100_003


def _capture_beside(work):
    """Calls `work` on a thread and a stream of its own, between two kernels of a capture."""
    source, graph, errors = torch.ones(5), torch.cuda.CUDAGraph(), []
    stream = torch.cuda.Stream()

    def run():
        try:
            with torch.cuda.stream(stream):
                work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with torch.cuda.graph(graph):
        doubled = source * 2
        thread.start()
        thread.join(LIMIT_S)
        assert not thread.is_alive() and not errors, errors
        tripled = source * 3
    graph.replay()
    torch.cuda.synchronize()
    assert doubled.tolist() == [2.0] * 5 and tripled.tolist() == [3.0] * 5


def the_first_cuda_tensor_may_come_beside_a_capture():
    """But where NCCL connects: its own calls end the capture."""
    if not is_cuda() or (os.environ.get("SCALECOM_CUDA_COLLECTIVES") == "nccl" and hvd.size() > 1):
        return
    tensor = torch.full((COUNT,), hvd.rank() + 1.0)
    torch.cuda.synchronize()
    _capture_beside(lambda: hvd.allreduce_(tensor, name="first", op=hvd.Sum))
    assert (tensor == hvd.size() * (hvd.size() + 1) / 2).all()


def operations_go_on_beside_a_capture():
    """In place: what torch allocates in another thread may end a capture, too."""
    if not is_cuda():
        return
    compression = hvd.Compression.scalecom(rate=100, warmup_steps=0)
    tensors = [torch.empty(COUNT) for _ in range(20)]
    # NCCL connects an algorithm when a size asks for it, and what travels beside the capture is of any of these.
    for count in (1_000, COUNT, 20 * COUNT):
        hvd.allreduce(torch.ones(count), name=f"connecting.{count}")

    def work(turn):
        handles = [hvd.allreduce_async_(tensor, name=f"{turn}.{place}", op=hvd.Sum)
                   for place, tensor in enumerate(tensors[2:])]
        hvd.allreduce_(tensors[0], name=f"{turn} compressed", op=hvd.Sum, compression=compression)
        hvd.broadcast_(tensors[1], hvd.size() - 1, name=f"{turn} broadcast")
        for handle in handles:
            hvd.synchronize(handle)

    for turn in ("connecting", "beside"):
        for tensor in tensors:
            tensor.fill_(hvd.rank() + 1.0)
        torch.cuda.synchronize()
        if turn == "connecting":
            work(turn)
        else:
            _capture_beside(lambda: work(turn))
        total = hvd.size() * (hvd.size() + 1) / 2
        assert all((tensor == total).all() for tensor in tensors[2:])
        assert tensors[0].count_nonzero() == -(-COUNT // 100)
        assert (tensors[1] == hvd.size()).all()
