"""A script that runs its own function on ranks, as Horovod's examples may: how many, and how."""

import argparse
import os

import torch

import horovod
import horovod.torch as hvd


def train(factor, offset=0.0):
    hvd.init()
    torch.set_num_threads(1)
    total = hvd.allreduce(torch.tensor([float(hvd.rank() + 1)]), op=hvd.Sum).item()
    return hvd.rank(), factor * total + offset, hvd.mpi_enabled(), os.getcwd()


def fail(rank):
    hvd.init()
    if hvd.rank() == rank:
        raise KeyError("no such word")
    hvd.barrier()


def leave():
    os._exit(5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--use-mpi", action="store_true")
    parser.add_argument("--hostfile")
    args = parser.parse_args()
    hosts = {"hostfile": args.hostfile} if args.hostfile else {"hosts": f"localhost:{args.num_proc}"}
    results = horovod.run(train, (10.0,), {"offset": 1.0}, num_proc=args.num_proc, use_mpi=args.use_mpi, **hosts)
    wanted = 10.0 * sum(range(1, args.num_proc + 1)) + 1.0
    is_by_mpi = args.use_mpi or bool(args.hostfile)
    assert results == [(rank, wanted, is_by_mpi, os.getcwd()) for rank in range(args.num_proc)]
    failures = () if is_by_mpi else ((fail, (args.num_proc - 1,), "no such word"),
                                        (leave, (), "gave no result"))
    for function, arguments, message in failures:
        try:
            horovod.run(function, arguments, np=args.num_proc)
        except RuntimeError as error:
            assert message in str(error), error
            if function is fail:
                assert f"rank {args.num_proc - 1} of {args.num_proc} failed" in str(error), error
        else:
            raise AssertionError("no error")
    print("all as expected")


if __name__ == "__main__":
    main()
