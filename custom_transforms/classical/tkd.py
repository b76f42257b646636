r"""Thresholded k-space division (TKD): dipole inversion that stops dividing where the dipole is small.

    q = 1/c F^-1 [sign(D) / max(|D|, t)] F f,    c = mean over k of |D| / max(|D|, t)

c is what the truncation leaves of a point's susceptibility; dividing by it compensates the underestimation.

References:
    Shmueli 2009, doi:10.1002/mrm.22135 (TKD); Schweser 2013, doi:10.1002/mrm.24405 (the compensation).
"""

import torch
from torch import Tensor, nn

from custom_transforms.keys import split_image
from custom_transforms.physics.dipole import DipoleConvolution, convolve
from custom_transforms.physics.zero import zero_mean


class TKDSusceptibility(nn.Module):
    """chi_total by thresholded k-space division, with zero mean in the mask.

    Args:
        threshold: t in (0, 2/3), dimensionless.
        padding: relative margin against wrap-around.
    """

    def __init__(self, *, threshold: float = 0.1, padding: float = 0.5) -> None:
        super().__init__()
        if not 0 < threshold < 2 / 3:
            raise ValueError(f"threshold must lie between 0 and 2/3, the largest |D|, got {threshold}; 0.1 is usual")
        self.threshold = threshold
        self.dipole = DipoleConvolution(padding=padding)

    def forward(
        self,
        image: Tensor,
        voxel_size_mm: Tensor | None = None,
        b0_direction: Tensor | None = None,
        relaxivity_weights: Tensor | None = None,
    ) -> Tensor:
        """Invert the local field of ``image`` (B, 3 or 4, X, Y, Z); gives chi_total in ppm, (B, 1, X, Y, Z)."""
        field, _, mask = split_image(image.float())
        kernel = self.dipole.kernel(field, voxel_size_mm, b0_direction)
        grid = self.dipole.grid(field)
        divisor = kernel.abs().clamp(min=self.threshold)
        q = convolve(field * mask, kernel.sign() / divisor, grid)
        q = q / _spectrum_mean(kernel.abs() / divisor, grid[2])
        return zero_mean(q, mask)


def _spectrum_mean(half: Tensor, depth: int) -> Tensor:
    """Give the mean over the whole spectrum of an even function on half of it, (B, 1, X, Y, depth // 2 + 1)."""
    twice = torch.full((half.shape[-1],), 2.0, device=half.device)
    twice[0] = 1.0
    if depth % 2 == 0:
        twice[-1] = 1.0
    return (half * twice).sum(dim=(-3, -2, -1), keepdim=True) / (half.shape[-3] * half.shape[-2] * depth)
