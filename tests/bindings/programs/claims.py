"""Functions of a module that are claims about a healthy job of any size."""

import contextlib
import faulthandler
import importlib
import inspect
import os
import time
import traceback

import pytest

from scalecom import basics


def names(module):
    """Names of a module's claims in the order they are written: its public functions."""
    module = importlib.import_module(module)
    functions = [function for name, function in vars(module).items()
                 if inspect.isfunction(function) and function.__module__ == module.__name__
                 and not name.startswith("_")]
    return [function.__name__
            for function in sorted(functions, key=lambda item: item.__code__.co_firstlineno)]


def _use(device):
    """What the claims make is on this device; what torch computes there is the same each time."""
    import torch
    torch.set_default_device(device)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # Else a device mesh takes the one that LOCAL_RANK says.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def is_cuda():
    """Whether what the claims make is on a CUDA device."""
    import torch
    return torch.get_default_device().type == "cuda"


@contextlib.contextmanager
def device_at_work(cycles=500_000_000):
    """The current stream has something for some 250 ms, and still has it when this is over: what is
    done inside does not wait for the device. Of NCCL's collectives: the host's have to. Elsewhere
    nothing is looked at."""
    import torch
    is_watched = is_cuda() and os.environ.get("SCALECOM_CUDA_COLLECTIVES") == "nccl"
    if is_watched:
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
    yield
    assert not is_watched or not torch.cuda.current_stream().query(), "the host has waited"


def check_all(module, device=None):
    """Returns {claim: traceback, or None where it holds}. Every rank tries every claim, on tensors
    of the CPU or of a device."""
    basics.init()
    if device is not None:
        _use(device)
    verdicts = {}
    for name in names(module):
        try:
            getattr(importlib.import_module(module), name)()
            verdicts[name] = None
        except (Exception, pytest.fail.Exception):  # The latter is none of the former.
            verdicts[name] = traceback.format_exc()
            print(f"{module}.{name} failed:\n{verdicts[name]}", flush=True)  # A process that is ended gives no verdict.
    basics.shutdown()
    return verdicts


def check_modules(modules, limit_s, device=None):
    """{module: what check_all() says, or {"import": traceback}}. Ends the process after limit_s
    seconds, with all threads' tracebacks."""
    faulthandler.dump_traceback_later(limit_s, exit=True)
    verdicts = {}
    for module in modules:
        print(f"{module}, {time.process_time():.1f} s of this process so far", flush=True)
        try:
            names(module)
        except ImportError:
            verdicts[module] = {"import": traceback.format_exc()}
        else:
            verdicts[module] = check_all(module, device)
    faulthandler.cancel_dump_traceback_later()
    return verdicts
