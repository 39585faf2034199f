"""The command line tools of the installed package."""

import os
import sys

from scalecom._library import find_nccl, prefix


def _run(name, *arguments):
    program = prefix() / "bin" / name
    os.execv(program, [str(program), *arguments, *sys.argv[1:]])


def info():
    nccl = find_nccl()
    _run("scalecom-info", *(["--offer-nccl", nccl] if nccl else []))


def bench():
    _run("scalecom-bench")
