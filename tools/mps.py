"""NVIDIA's Multi-Process Service (MPS): processes compute on a GPU side by side. Without it they take
turns on it, in slices of some 2.4 ms, which is what several ranks on one GPU then wait for."""

import contextlib
import os
import shutil
import subprocess
import tempfile

CONTROL = "nvidia-cuda-mps-control"
LIMIT_S = 30


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
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": LIMIT_S}
        if subprocess.run([CONTROL, "-d"], env=environment, **quiet).returncode != 0:
            yield {}
            return
        try:
            yield variables
        finally:
            subprocess.run([CONTROL], input=b"quit\n", env=environment, **quiet)
