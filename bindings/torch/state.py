"""The residuals of this rank: training state that belongs into a checkpoint; and their health."""

import ctypes
import math

import torch

from scalecom import _library
from scalecom._library import lib

_PREFIX = "allreduce."


def residual_infos():
    """{tensor name: {"shape", "step", "beta"}} of this rank."""
    return {entry["name"].removeprefix(_PREFIX): entry
            for entry in _library.read_json(lib.scalecom_residuals)}


def compression_state():
    """{tensor name: residual} of this rank: float32 tensors in the tensors' shapes."""
    state = {}
    for name, entry in residual_infos().items():
        values = torch.empty(entry["shape"], dtype=torch.float32, device="cpu")
        _library.check(lib.scalecom_residual_get(entry["name"].encode(), values.data_ptr(),
                                                 values.numel()))
        state[name] = values
    return state


def compression_steps():
    """{tensor name: next step} of this rank; leader and warm-up follow from it."""
    return {name: entry["step"] for name, entry in residual_infos().items()}


def compression_betas():
    """{tensor name: beta} of this rank: residual / beta is what it owes. 0 where it is not known."""
    return {name: entry["beta"] for name, entry in residual_infos().items()}


def compression_stats():
    """{tensor name: figures} of the compressed tensors, each of its last sampled step.

    A dictionary has step, elements, rate (chunk length), halvings (by the guard), sampled_chunks,
    relative_error, mean_relative_error, residual_to_gradient, mean_residual_to_gradient (this
    rank's, and the ranks' mean), hamming_distance, chunk_overlap and byte_true_rate; what they mean:
    docs/algorithms.md. Empty until SCALECOM_HEALTH_STEPS steps are over. Any thread may call it, at
    any time.
    """
    return {entry.pop("name").removeprefix(_PREFIX):
            {name: math.inf if value is None else value for name, value in entry.items()}
            for entry in _library.read_json(lib.scalecom_compression_stats)}


def check_residuals(residuals, shapes):
    """Raises ValueError unless every residual has the shape that `shapes` gives its name."""
    for name, residual in residuals.items():
        if shapes.get(name) != tuple(residual.shape):
            raise ValueError(f"the saved residual of {name} has shape {tuple(residual.shape)}; "
                             f"the parameter's is {shapes.get(name, 'unknown here')}: is this "
                             "the checkpoint of another model?")


def model_state(names):
    """{"residuals", "steps", "betas"} of those names, for a checkpoint."""
    parts = {"residuals": compression_state(), "steps": compression_steps(),
             "betas": compression_betas()}
    return {part: {name: value for name, value in of_all.items() if name in names}
            for part, of_all in parts.items()}


def load_model_state(saved, shapes):
    """Makes residuals and steps of the names in `shapes` those of a model_state(): a name that it
    lacks starts anew. Nothing is changed where check_residuals() refuses."""
    check_residuals(saved["residuals"], shapes)
    fresh = {name: torch.zeros(entry["shape"], device="cpu") for name, entry in residual_infos().items()
             if name in shapes and name not in saved["residuals"]}
    load_compression_state({**fresh, **saved["residuals"]},
                           {**dict.fromkeys(fresh, 0), **saved["steps"]}, saved.get("betas"))


def fold_compression_states(states):
    """The state to load on every rank of a job of another size that averages (op=Average): `states`
    are those that all ranks of the former job saved (the "scalecom" entries of DistributedOptimizer's state_dict(), or
    DDPState's), one a rank.

    It holds the mean m of their residuals. What the former n ranks still owed the average, the sum of
    m_r over n beta, is what any number of ranks that hold m owe it: nothing is lost. N ranks that
    sum (op=Sum) owe as much with m n / N. Raises ValueError where the states are not of one model and moment.
    """
    states = list(states)
    if not states:
        raise ValueError("states is empty; give what each rank of the former job saved")
    first = states[0]
    mean = {name: torch.zeros(value.shape, dtype=torch.float64, device=value.device)
            for name, value in first["residuals"].items()}
    for rank, saved in enumerate(states):
        shapes = {name: tuple(value.shape) for name, value in saved["residuals"].items()}
        if shapes != {name: tuple(value.shape) for name, value in mean.items()}:
            raise ValueError(f"states[{rank}] has other tensors than states[0]; give what the ranks "
                             "of one job saved at one moment")
        if saved["steps"] != first["steps"]:
            raise ValueError(f"states[{rank}] was saved at other steps than states[0]; give what "
                             "the ranks of one job saved at one moment")
        if saved.get("betas") != first.get("betas"):
            raise ValueError(f"states[{rank}] was saved with other betas than states[0]; give what "
                             "the ranks of one job saved at one moment")
        for name, value in saved["residuals"].items():
            mean[name] += value / len(states)
    return {**first, "residuals": {name: value.float() for name, value in mean.items()}}


def load_compression_state(state, steps=None, betas=None):
    """Replaces this rank's residuals by those of compression_state(); others keep theirs.

    Call it on every rank, with no compressed tensor in flight. `steps`: compression_steps() of the
    same moment; where a name is missing, its step count goes on, from 0 for a new name. The ranks'
    counts must agree. `betas`: compression_betas() of the same moment; where a name is missing, the
    beta that it goes on with is taken for that of its residual.
    """
    current = compression_steps()
    for name, residual in state.items():
        values = residual.detach().to(device="cpu", dtype=torch.float32).contiguous()
        shape = (ctypes.c_int64 * values.dim())(*values.shape)
        step = (steps or {}).get(name, current.get(name, 0))
        _library.check(lib.scalecom_residual_restore(
            (_PREFIX + name).encode(), shape, values.dim(), values.data_ptr(), step,
            (betas or {}).get(name, 0.0)))
