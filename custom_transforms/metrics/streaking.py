r"""Streaks: the part of the error that lies where the dipole hardly tells the susceptibility.

    streaking = 100 |P (a - b)| / |b|  in percent,    P keeps the frequencies with |D(k)| < width

of demeaned maps, so that streaking^2 + (the same, outside of the cone)^2 = NRMSE^2.
"""

from __future__ import annotations

from torch import Tensor

from custom_transforms.metrics.error import demeaned
from custom_transforms.physics import convolve, default_geometry, dipole_kernel


def streaking_percent(
    pred: Tensor,
    truth: Tensor,
    mask: Tensor,
    voxel_size_mm: Tensor | None = None,
    b0_direction: Tensor | None = None,
    *,
    width: float = 0.1,
) -> Tensor:
    """Error near the zero cone of the dipole, for every volume and channel.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        truth: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).
        voxel_size_mm: (B, 3) in mm, or None for 1 mm.
        b0_direction: (B, 3) unit vectors in voxel axes, or None for +z.
        width: |D| below which a frequency counts as near the cone; |D| is at most 2/3.

    Returns:
        (B, C) in percent of the demeaned truth, float64.
    """
    error, reference = demeaned(pred.double() - truth.double(), mask), demeaned(truth, mask)
    grid = list(error.shape[2:])
    kernel = dipole_kernel(grid, *default_geometry(error, voxel_size_mm, b0_direction))
    streaks = convolve(error, (kernel.abs() < width).double(), grid)
    return 100 * streaks.flatten(2).norm(dim=2) / reference.flatten(2).norm(dim=2)
