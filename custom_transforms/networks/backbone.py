"""What stands around every injected MONAI network: padding to its strides, mixed precision, float32 out."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Zero-pad the end of the three spatial axes to a multiple of ``multiple``: never crop, so no slice is lost."""
    extra = [-n % multiple for n in image.shape[-3:]]
    return nn.functional.pad(image, [0, extra[2], 0, extra[1], 0, extra[0]])


class Backbone(nn.Module):
    """An image-to-image network at its own precision: float32 in, float32 out.

    Args:
        network: a network (B, C, X, Y, Z) to (B, C', X, Y, Z).
        mixed_precision: autocast it to bfloat16, whose range is float32's, so that no gradient scaling is needed.
        checkpointing: recompute its activations in the backward pass to save memory.
    """

    def __init__(self, network: nn.Module, *, mixed_precision: bool = False, checkpointing: bool = False) -> None:
        super().__init__()
        self.network = network
        self.mixed_precision = mixed_precision
        self.checkpointing = checkpointing

    def forward(self, features: Tensor) -> Tensor:
        """Run the network on features that are padded to its strides."""
        if torch.jit.is_scripting():
            return self.network(features)
        with torch.autocast(features.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
            if self.checkpointing and self.training:
                return checkpoint(self.network, features, use_reentrant=False).float()
            return self.network(features).float()
