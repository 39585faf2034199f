"""Horovod's package names, served by scalecom: what a script needs that says ``import horovod.torch``.

Such a script runs as it is with ``python -m scalecom.horovod train.py``, or with
``import scalecom.horovod; scalecom.horovod.install()`` before its first import of horovod.
"""

import importlib.machinery
import importlib.util
import logging
import os
import pathlib
import socket
import sys

from scalecom.communicators import is_under_mpi
from scalecom.launch.lines import HOROVOD_PLACES, horovod_places

_SERVED = str(pathlib.Path(__file__).resolve().parent / "served")


class _Finder:
    """Finds horovod and all below it here alone, wherever else a folder of that name is."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "horovod":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [_SERVED] if path is None else path)
        if spec is None:
            raise ModuleNotFoundError(
                f"No module named {name!r}: scalecom.horovod serves horovod.torch, "
                "horovod.tensorflow, horovod.keras, horovod.common and small helpers of horovod.runner; "
                "docs/howto/migrate-from-horovod.md says what to use for the rest", name=name)
        return spec


def install():
    """Makes ``import horovod`` mean scalecom, in this process and in Python processes that it starts.

    A rank of torchrun's or scalecomrun's has HOROVOD_RANK and the like then, as horovodrun sets them.
    Imports neither a framework nor Horovod. A Horovod that is installed is passed over, which a
    message of level info on the logger "scalecom" says once. Raises ImportError when that Horovod
    is imported already. Further calls do nothing.
    """
    if _Finder in sys.meta_path:
        return
    loaded = sys.modules.get("horovod")
    place = _place_of(loaded.__spec__ if loaded else importlib.util.find_spec("horovod"))
    if loaded and place != _SERVED:
        raise ImportError(f"horovod is imported already, from {place}; call "
                          "scalecom.horovod.install() before, or run the script with "
                          "python -m scalecom.horovod")
    if place not in (None, _SERVED):
        logging.getLogger("scalecom").info("horovod in %s is passed over: scalecom serves its "
                                           "names", place)
    sys.meta_path.insert(0, _Finder)
    _tell_place()
    # Workers of a DataLoader import the script again, in processes without the finder: those of
    # multiprocessing get the path from here, others from the environment.
    if _SERVED not in sys.path:
        sys.path.insert(1, _SERVED)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([_SERVED, inherited] if inherited
                                                   else [_SERVED])


def _tell_place():
    """Sets what horovodrun sets without MPI, by which libraries see that Horovod runs and on which rank, where
    torchrun, or what speaks as it does, has told this process its own. A worker of an elastic job learns it in
    each meeting (scalecom/worker.py)."""
    for name in HOROVOD_PLACES:  # Where a rank of another job has started this process, they are its own.
        os.environ.pop(name, None)
    is_elastic = "SCALECOM_ELASTIC_WORKER" in os.environ
    if is_under_mpi() or not (is_elastic or {"RANK", "WORLD_SIZE"} <= os.environ.keys()):
        return
    os.environ["HOROVOD_HOSTNAME"] = socket.gethostname()
    os.environ.update(horovod_places(os.environ))


def _place_of(spec):
    """The folder that holds a package's folder; None for no package."""
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return os.path.dirname(locations[0]) if locations else None
