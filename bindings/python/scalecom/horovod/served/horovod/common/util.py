"""Served by scalecom: the helpers of Horovod that scripts use."""

import contextlib
import os

from scalecom import basics


def extension_available(ext_base_name, verbose=False):
    """Whether a framework's adapter is served."""
    return ext_base_name in ("torch", "tensorflow")


def check_extension(ext_name, ext_env_var, pkg_path, *args):
    """Raises ImportError unless a framework's adapter is served."""
    if not extension_available(ext_name.rpartition(".")[2]):
        raise ImportError(f"{ext_name} is not in this version of scalecom; horovod.torch "
                          "and horovod.tensorflow are")


def gpu_available(ext_base_name, verbose=False):
    """Whether tensors of a framework may be on a GPU here."""
    if not extension_available(ext_base_name) or not basics.cuda_built():
        return False
    if ext_base_name == "tensorflow":
        import tensorflow
        return bool(tensorflow.config.list_physical_devices("GPU"))
    import torch
    return torch.cuda.is_available()


def mpi_built(verbose=False):
    return basics.mpi_built()


def gloo_built(verbose=False):
    return basics.gloo_built()


def nccl_built(verbose=False):
    return basics.nccl_built()


def ddl_built(verbose=False):
    return basics.ddl_built()


def ccl_built(verbose=False):
    return basics.ccl_built()


@contextlib.contextmanager
def env(**kwargs):
    """Environment variables that hold inside the with; those given as None stay as they are."""
    given = {name: value for name, value in kwargs.items() if value is not None}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def num_rank_is_power_2(num_rank):
    return num_rank > 0 and num_rank & (num_rank - 1) == 0


def split_list(l, n):
    """A list in n parts in order, of which the first len(l) % n are longer by one."""
    short, longer = divmod(len(l), n)
    places = [part * short + min(part, longer) for part in range(n + 1)]
    return [l[begin:end] for begin, end in zip(places, places[1:])]


def is_iterable(x):
    try:
        iter(x)
    except TypeError:
        return False
    return True
