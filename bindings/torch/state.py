"""The residuals of this rank: training state that belongs into a checkpoint."""

import ctypes

import torch

from scalecom import _library
from scalecom._library import lib

_PREFIX = "allreduce."


def residual_infos():
    """{tensor name: {"shape", "step"}} of this rank."""
    return {entry["name"].removeprefix(_PREFIX): entry
            for entry in _library.read_json(lib.scalecom_residuals)}


def compression_state():
    """{tensor name: residual} of this rank: float32 tensors in the tensors' shapes."""
    state = {}
    for name, entry in residual_infos().items():
        values = torch.empty(entry["shape"], dtype=torch.float32)
        _library.check(lib.scalecom_residual_get(entry["name"].encode(), values.data_ptr(),
                                                 values.numel()))
        state[name] = values
    return state


def compression_steps():
    """{tensor name: next step} of this rank; leader and warm-up follow from it."""
    return {name: entry["step"] for name, entry in residual_infos().items()}


def check_residuals(residuals, shapes):
    """Raises ValueError unless every residual has the shape that `shapes` gives its name."""
    for name, residual in residuals.items():
        if shapes.get(name) != tuple(residual.shape):
            raise ValueError(f"the saved residual of {name} has shape {tuple(residual.shape)}; "
                             f"the parameter's is {shapes.get(name, 'unknown here')}: is this "
                             "the checkpoint of another model?")


def model_state(names):
    """{"residuals", "steps"} of those names, for a checkpoint."""
    return {"residuals": {name: value for name, value in compression_state().items()
                          if name in names},
            "steps": {name: step for name, step in compression_steps().items() if name in names}}


def load_model_state(saved, shapes):
    """Makes residuals and steps of the names in `shapes` those of a model_state(): a name that it
    lacks starts anew. Nothing is changed where check_residuals() refuses."""
    check_residuals(saved["residuals"], shapes)
    fresh = {name: torch.zeros(entry["shape"]) for name, entry in residual_infos().items()
             if name in shapes and name not in saved["residuals"]}
    load_compression_state({**fresh, **saved["residuals"]},
                           {**dict.fromkeys(fresh, 0), **saved["steps"]})


def load_compression_state(state, steps=None):
    """Replaces this rank's residuals by those of compression_state(); others keep theirs.

    Call it on every rank, with no compressed tensor in flight. `steps`: compression_steps() of the
    same moment; where a name is missing, its step count goes on, from 0 for a new name. The ranks'
    counts must agree.
    """
    current = compression_steps()
    for name, residual in state.items():
        values = residual.detach().to(device="cpu", dtype=torch.float32).contiguous()
        shape = (ctypes.c_int64 * values.dim())(*values.shape)
        step = (steps or {}).get(name, current.get(name, 0))
        _library.check(lib.scalecom_residual_set((_PREFIX + name).encode(), shape, values.dim(),
                                                 values.data_ptr(), step))
