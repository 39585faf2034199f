"""One rank of one library's job for tools/bench/peers: times its all-reduces on torch's memory.

Started by tools/bench/peers under an MPI launcher. Rank 0 writes the report. Every figure is the
largest over the ranks of the rank's own median (or 99th percentile), in microseconds, for every
library alike.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import sys
import time

# Calls up to this size are timed in a warm loop of blocking calls, larger ones after all ranks have
# met in an all-reduce of 4 bytes (for MPI: a barrier, which is as quick).
LOOP_BYTES_MAX = 1024
PEER_TIMEOUT_S = 60


class HorovodLike:
    """A library with Horovod's interface: scalecom.torch and horovod.torch."""

    def __init__(self, module):
        self.hvd = module

    def start(self):
        self.hvd.init()
        return self.hvd.rank(), self.hvd.size()

    def meet(self):
        # What a training would do: a barrier is a tensor of its own that no step has.
        import torch
        self.hvd.allreduce_(torch.zeros(1), name="meet", op=self.hvd.Sum)

    def all_reduce(self, tensor, name):
        self.hvd.allreduce_(tensor, name=name, op=self.hvd.Sum)

    def bursts(self, tensors, _):
        """How the library reduces many tensors at once: figure -> call, which returns when all was
        submitted."""

        def submit_together():
            handles = [self.hvd.allreduce_async_(tensor, name=f"burst.{index}", op=self.hvd.Sum)
                       for index, tensor in enumerate(tensors)]
            submitted = time.perf_counter_ns()
            for handle in handles:
                self.hvd.synchronize(handle)
            return submitted

        def submit_group():
            handle = self.hvd.grouped_allreduce_async_(tensors, name="burst_group",
                                                       op=self.hvd.Sum)
            submitted = time.perf_counter_ns()
            self.hvd.synchronize(handle)
            return submitted

        return {"burst": submit_together, "burst_group": submit_group}

    def stop(self):
        self.hvd.shutdown()


class Scalecom(HorovodLike):
    def __init__(self):
        import scalecom.torch
        super().__init__(scalecom.torch)

    def version(self):
        import scalecom
        return f"scalecom {scalecom.__version__}"


class Horovod(HorovodLike):
    def __init__(self):
        import horovod.torch
        super().__init__(horovod.torch)

    def version(self):
        import horovod
        return f"Horovod {horovod.__version__}"


class Gloo:
    """torch.distributed's Gloo, which finds its peers through a file in `folder`."""

    def __init__(self):
        import torch.distributed
        self.dist = torch.distributed
        if not self.dist.is_gloo_available():
            raise ImportError("this torch was built without Gloo")

    def version(self):
        import torch
        return f"Gloo of torch {torch.__version__}"

    def start(self):
        rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
        size = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        meeting_place = pathlib.Path(os.environ["PEERS_FOLDER"], "gloo").absolute()
        self.dist.init_process_group("gloo", init_method=f"file://{meeting_place}", rank=rank,
                                     world_size=size,
                                     timeout=datetime.timedelta(seconds=PEER_TIMEOUT_S))
        return rank, size

    def meet(self):
        import torch
        self.dist.all_reduce(torch.zeros(1))

    def all_reduce(self, tensor, _):
        self.dist.all_reduce(tensor)

    def bursts(self, tensors, _):
        def submit_together():
            works = [self.dist.all_reduce(tensor, async_op=True) for tensor in tensors]
            submitted = time.perf_counter_ns()
            for work in works:
                work.wait()
            return submitted

        return {"burst": submit_together}

    def stop(self):
        self.dist.destroy_process_group()


class Mpi:
    """MPI_Allreduce by mpi4py, in place on torch's memory, called by the main thread alone."""

    def __init__(self):
        import mpi4py
        # One thread calls it: the level at which MPI is fastest.
        mpi4py.rc.initialize = False
        from mpi4py import MPI
        self.mpi = MPI
        self.buffers = {}

    def version(self):
        return self.mpi.Get_library_version().split(",")[0].strip("\0\n ")

    def start(self):
        self.mpi.Init_thread(self.mpi.THREAD_SINGLE)
        return self.mpi.COMM_WORLD.Get_rank(), self.mpi.COMM_WORLD.Get_size()

    def meet(self):
        self.mpi.COMM_WORLD.Barrier()

    def all_reduce(self, tensor, _):
        # What describes the memory to MPI is made once: a program would keep it, too.
        key = tensor.data_ptr(), tensor.numel()
        buffer = self.buffers.get(key)
        if buffer is None:
            types = {4: self.mpi.FLOAT, 8: self.mpi.DOUBLE}
            buffer = self.buffers[key] = [tensor.numpy(), types[tensor.element_size()]]
        self.mpi.COMM_WORLD.Allreduce(self.mpi.IN_PLACE, buffer)

    def bursts(self, tensors, together):
        """One call a tensor, and one call for all of them, as if somebody had packed them."""

        def one_after_another():
            for tensor in tensors:
                self.all_reduce(tensor, None)

        return {"burst": one_after_another, "burst_fused": lambda: self.all_reduce(together, None)}

    def stop(self):
        self.mpi.Finalize()


LIBRARIES = {"scalecom": Scalecom, "mpi": Mpi, "gloo": Gloo, "horovod": Horovod}


def microseconds(call):
    """(from the call to its return, from the call to the moment that it returned or None)."""
    begin = time.perf_counter_ns()
    submitted = call()
    end = time.perf_counter_ns()
    return (end - begin) / 1e3, None if submitted is None else (submitted - begin) / 1e3


def percentile(times, percent):
    ordered = sorted(times)
    return ordered[(len(ordered) - 1) * percent // 100]


def calls_of(nbytes, limit):
    """(warm-up calls, timed calls) of a size: some 128 MiB in all, within sensible bounds."""
    wanted = 2000 if nbytes <= LOOP_BYTES_MAX else min(100, max(5, (128 << 20) // nbytes))
    timed = min(wanted, limit) if limit else wanted
    return max(2, timed // 5), timed


class Bench:
    """This rank's measurements; figures by name, in microseconds."""

    def __init__(self, library, rank, size, calls_limit):
        self.library = library
        self.rank = rank
        self.calls_limit = calls_limit
        self.expected = size * (size + 1) // 2
        self.figures = {}

    def _check(self, tensor, what):
        if not bool((tensor == self.expected).all()):
            raise RuntimeError(f"{what}: the sum is wrong on rank {self.rank}: got values from "
                               f"{tensor.min()} to {tensor.max()}, wanted {self.expected}")

    def _time_after_meeting(self, call, tensors, what):
        """Times of the calls, as microseconds() has them, each on fresh values: a sum in place would
        grow without end."""
        warmup, timed = calls_of(sum(tensor.nbytes for tensor in tensors), self.calls_limit)
        times = []
        for index in range(-warmup, timed):
            for tensor in tensors:
                tensor.fill_(self.rank + 1)
            self.library.meet()
            time_us = microseconds(call)
            if index >= 0:
                times.append(time_us)
        for tensor in tensors:
            self._check(tensor, what)
        return times

    def measure_loop(self, torch, nbytes):
        """Blocking calls one after the other; zeros, whose sum does not grow."""
        tensor = torch.full((nbytes // 4,), float(self.rank + 1))
        name = f"loop.{nbytes}"
        self.library.all_reduce(tensor, name)
        self._check(tensor, name)
        tensor.zero_()
        warmup, timed = calls_of(nbytes, self.calls_limit)
        for _ in range(warmup):
            self.library.all_reduce(tensor, name)
        self.library.meet()
        times = [microseconds(lambda: self.library.all_reduce(tensor, name))[0]
                 for _ in range(timed)]
        self.figures[f"{nbytes}"] = statistics.median(times)
        self.figures[f"{nbytes}.p99"] = percentile(times, 99)

    def measure_size(self, torch, nbytes):
        if nbytes <= LOOP_BYTES_MAX:
            self.measure_loop(torch, nbytes)
            return
        tensor = torch.empty(nbytes // 4)
        name = f"size.{nbytes}"
        times = self._time_after_meeting(lambda: self.library.all_reduce(tensor, name), [tensor],
                                          name)
        self.figures[f"{nbytes}"] = statistics.median(whole for whole, _ in times)

    def measure_burst(self, torch, count, nbytes):
        # One memory, so that the same bytes are reduced apart and together.
        together = torch.empty(count * nbytes // 4)
        tensors = list(together.view(count, -1))
        for figure, call in self.library.bursts(tensors, together).items():
            times = self._time_after_meeting(call, [together], figure)
            wholes, submits = zip(*times)
            self.figures[figure] = statistics.median(wholes)
            if None not in submits:
                self.figures[f"{figure}.submit"] = statistics.median(submits)

    def slowest(self, torch, size):
        """The figures, each the largest over all ranks; sums are what every library can do."""
        names = list(self.figures)
        table = torch.zeros(size, len(names), dtype=torch.float64)
        table[self.rank] = torch.tensor([self.figures[name] for name in names])
        flat = table.view(-1)
        self.library.all_reduce(flat, "figures")
        return dict(zip(names, flat.view(size, -1).max(dim=0).values.tolist()))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--probe", action="store_true", help="print the library's version and end")
    parser.add_argument("--json", type=pathlib.Path, help="where rank 0 writes the report")
    parser.add_argument("--sizes", default="", help="bytes of float32 tensors, with commas")
    parser.add_argument("--burst", default="", metavar="COUNTxBYTES", help="tensors at once")
    parser.add_argument("--calls", type=int, default=0, help="at most so many timed calls a size")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                        help="set before the library is loaded; launchers forward no variables")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    os.environ.update(pair.split("=", 1) for pair in arguments.env)
    try:
        import torch
        library = LIBRARIES[arguments.library]()
    except (ImportError, OSError, RuntimeError) as error:
        sys.exit(f"cannot be imported by {sys.executable}: {' '.join(str(error).split())}")
    if arguments.probe:
        print(library.version())
        return
    torch.set_num_threads(1)
    rank, size = library.start()
    bench = Bench(library, rank, size, arguments.calls)
    for nbytes in arguments.sizes.split(",") if arguments.sizes else []:
        bench.measure_size(torch, int(nbytes))
    if arguments.burst:
        bench.measure_burst(torch, *(int(number) for number in arguments.burst.split("x")))
    figures = bench.slowest(torch, size)
    if rank == 0:
        arguments.json.write_text(json.dumps({"ranks": size, "figures": figures}))
    library.meet()
    library.stop()


if __name__ == "__main__":
    main()
