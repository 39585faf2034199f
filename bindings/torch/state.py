"""The residuals of this rank as tensors: training state that belongs into a checkpoint."""

import torch

from scalecom.residuals import (Residuals, compression_betas, compression_stats,
                                compression_steps)

__all__ = ["compression_betas", "compression_state", "compression_stats", "compression_steps",
           "fold_compression_states", "load_compression_state", "load_model_state", "model_state",
           "prepare_model_state"]

residuals = Residuals(
    zeros=lambda shape: torch.zeros(shape, dtype=torch.float32, device="cpu"),
    is_array=lambda value: (isinstance(value, torch.Tensor) and value.is_floating_point()
                            and value.layout == torch.strided),
    to_host=lambda tensor: tensor.detach().to(device="cpu", dtype=torch.float32).contiguous(),
    to_double=torch.Tensor.double,
    count_nonfinite=lambda tensor: tensor.numel() - int(torch.isfinite(tensor).sum()),
    address_of=torch.Tensor.data_ptr)

compression_state = residuals.state
load_compression_state = residuals.load
model_state = residuals.model_state
load_model_state = residuals.load_model_state
prepare_model_state = residuals.prepare_model_state
fold_compression_states = residuals.fold
