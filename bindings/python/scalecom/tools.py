"""The command line tools of the installed package."""

import os
import sys

from scalecom._library import prefix


def _run(name):
    program = prefix() / "bin" / name
    os.execv(program, [str(program), *sys.argv[1:]])


def info():
    _run("scalecom-info")


def bench():
    _run("scalecom-bench")
