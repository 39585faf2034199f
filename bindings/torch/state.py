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
    to_double=torch.Tensor.double,
    address_of=torch.Tensor.data_ptr)

compression_state = residuals.state
load_compression_state = residuals.load
model_state = residuals.model_state
load_model_state = residuals.load_model_state
fold_compression_states = residuals.fold
