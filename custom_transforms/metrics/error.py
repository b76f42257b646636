r"""How far a map is from the truth, voxel by voxel.

NRMSE = 100 |a - b| / |b|  in percent,    PSNR = 20 log10(peak / RMSE)  in dB,    both over the mask
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the voxels of a mask, for every volume and channel.

    Args:
        values: (B, C, X, Y, Z) in any unit.
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, C) in the same unit, float64; NaN where the mask is empty.
    """
    m = mask > 0.5
    return torch.where(m, values.double(), 0.0).sum(dim=(2, 3, 4)) / m.sum(dim=(2, 3, 4))


def demeaned(values: Tensor, mask: Tensor) -> Tensor:
    """Subtract the mean in the mask and set the outside to zero, (B, C, X, Y, Z), float64."""
    mean = masked_mean(values, mask)[:, :, None, None, None]
    return torch.where(mask > 0.5, values.double() - mean, 0.0)


def nrmse_percent(pred: Tensor, truth: Tensor, mask: Tensor, *, demean: bool = False) -> Tensor:
    """Normalised root mean square error in the mask, for every volume and channel.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        truth: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).
        demean: subtract the mean in the mask from both first.

    Returns:
        (B, C) in percent, float64.
    """
    if demean:
        pred, truth = demeaned(pred, mask), demeaned(truth, mask)
    error = pred.double() - truth.double()
    return 100 * (masked_mean(error**2, mask) / masked_mean(truth.double() ** 2, mask)).sqrt()


def psnr_db(pred: Tensor, truth: Tensor, mask: Tensor, *, peak_ppm: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in the mask, for every volume and channel.

    Args:
        pred: (B, C, X, Y, Z) in ppm.
        truth: (B, C, X, Y, Z) in ppm.
        mask: (B, 1, X, Y, Z).
        peak_ppm: the peak, 1 ppm in the published tables.

    Returns:
        (B, C) in dB, float64; infinite where both are equal.
    """
    return 10 * torch.log10(peak_ppm**2 / masked_mean((pred.double() - truth.double()) ** 2, mask))
