"""The residuals of this rank as tensors: training state that belongs into a checkpoint."""

import torch

from scalecom.residuals import (Residuals, check_residuals, compression_betas, compression_stats,
                                compression_steps)

__all__ = ["check_residuals", "compression_betas", "compression_state", "compression_stats",
           "compression_steps", "fold_compression_states", "load_compression_state",
           "load_model_state", "model_state"]

residuals = Residuals(
    zeros=lambda shape: torch.zeros(shape, dtype=torch.float32, device="cpu"),
    to_host=lambda tensor: tensor.detach().to(device="cpu", dtype=torch.float32).contiguous(),
    address_of=torch.Tensor.data_ptr)

compression_state = residuals.state
load_compression_state = residuals.load
model_state = residuals.model_state
load_model_state = residuals.load_model_state


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
