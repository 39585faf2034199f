"""python -m scalecom.horovod train.py ...: runs a script that imports horovod, on scalecom."""

import argparse
import builtins
import importlib.util
import io
import os
import pathlib
import runpy
import sys
import types

from scalecom import horovod


def _parse():
    parser = argparse.ArgumentParser(
        prog="python -m scalecom.horovod",
        description="Runs a Python script, or with -m a module, in which import horovod means "
                    "scalecom. Under mpirun or torchrun each process is a rank.")
    parser.add_argument("-m", dest="is_module", action="store_true",
                        help="the target is the name of a module")
    parser.add_argument("target", nargs="?", help="the script, as for python")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's arguments")
    options = parser.parse_args()
    if options.target is None:
        parser.error("there is no script; give one, such as train.py, or a module behind -m")
    if not options.is_module and not os.path.isfile(options.target):
        parser.error(f"there is no file {options.target}; a module needs -m")
    return options


def _is_module(name):
    """Imports the packages above it, as running it does."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # Something that a package imports.
            raise
        return False


def _run_script(path):
    """As Python does: the script is the module __main__ until the process ends."""
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec")
    main = types.ModuleType("__main__")
    vars(main).update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = main
    exec(code, vars(main))


def main():
    options = _parse()
    sys.argv = [options.target, *options.arguments]
    if not options.is_module and not getattr(sys.flags, "safe_path", False):
        # Not the working folder, as for python -m.
        sys.path[0] = str(pathlib.Path(options.target).resolve().parent)
    horovod.install()
    if options.is_module:
        if not _is_module(options.target):
            sys.exit(f"python -m scalecom.horovod: there is no module {options.target} on Python's path")
        runpy.run_module(options.target, run_name="__main__", alter_sys=True)
    else:
        _run_script(os.path.abspath(options.target))


if __name__ == "__main__":
    main()
