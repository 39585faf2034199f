"""The residuals of this rank as tensors: training state that belongs into a checkpoint."""

import torch

from scalecom.residuals import Residuals

# Those of the process set in use.
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
fold_compression_states = residuals.fold
