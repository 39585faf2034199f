"""NVIDIA's Multi-Process Service (MPS): processes compute on a GPU side by side. Without it they take
turns on it, in slices of some 2.4 ms, which is what several ranks on one GPU then wait for."""

import contextlib
import os
import shutil
import subprocess
import tempfile

CONTROL = "nvidia-cuda-mps-control"
LIMIT_S = 30


def _is_good(command, environment, **options):
    """Whether it has ended well, and in time: it may wait for processes that are still there."""
    try:
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=LIMIT_S, **options).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def shared_gpu():
    """A daemon of our own while it lasts, with the environment of the processes that are to share the
    GPUs; empty where MPS is not installed, does not start, or has been set up by who calls."""
    if shutil.which(CONTROL) is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield {}
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **variables}
        if not _is_good([CONTROL, "-d"], environment):
            yield {}
            return
        try:
            yield variables
        finally:
            _is_good([CONTROL], environment, input=b"quit\n")
