"""Served by scalecom, which leaves the start of processes to mpirun and torchrun."""

from scalecom.horovod.missing import missing

run = missing("horovod.run", "start the ranks yourself: mpirun -np 4 python -m scalecom.horovod "
              "train.py, or torchrun --nproc_per_node 4 -m scalecom.horovod train.py")

__all__ = ["run"]
