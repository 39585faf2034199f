"""Served by scalecom: the helpers of Horovod that scripts use."""

import functools
import os
import re

from scalecom import basics, communicators, reductions

EXTENSIONS = ["tensorflow", "torch"]  # The frameworks whose adapters are served.


def extension_available(ext_base_name, verbose=False):
    """Whether a framework's adapter is served."""
    return ext_base_name in EXTENSIONS


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


def env(**kwargs):
    """Environment variables that hold inside the with; those given as None stay as they are."""
    return communicators.environment({name: value for name, value in kwargs.items() if value is not None})


def get_average_backwards_compatibility_fun(reduce_ops):
    """What makes one op of a call's op and average. reduce_ops does not matter: every framework shares
    the ops."""
    return lambda op, average: reductions.choose_op(average, op)


handle_average_backwards_compatibility = get_average_backwards_compatibility_fun(reductions)


def check_installed_version(name, version, exception=None):
    """Does nothing: one build of scalecom serves every version of a framework."""


def is_version_greater_equal_than(ver, target):
    """Whether a version is a target, "major.minor.patch", or later; what is behind does not count."""
    if not isinstance(ver, str) or not isinstance(target, str) or len(target.split(".")) != 3:
        raise ValueError(f"ver is {ver!r} and target {target!r}; texts are needed, the latter of the form "
                         "major.minor.patch")
    numbers = [tuple(map(int, (re.findall(r"\d+", one) + ["0", "0", "0"])[:3])) for one in (ver, target)]
    return numbers[0] >= numbers[1]


def support_non_legacy_keras_optimizers(k):
    """Whether a Keras has the optimizers of 2.11 and later."""
    return is_version_greater_equal_than(k.__version__, "2.11.0")


def _cache(f):
    return functools.lru_cache(maxsize=None)(f)


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
