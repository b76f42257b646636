r"""Background field removal by spherical mean values of varying radius (V-SHARP).

    h(x) = f(x) - (rho_R(x) * f)(x)
    local field = F^-1 T F h,    T = 1 / (1 - rho_Rmax(k)) where |1 - rho_Rmax| > t, else 0

f is the total field and R(x) the largest radius of which the ball around x lies in the mask, so that the harmonic
background drops out of h. Voxels nearer to the rim than the smallest radius have no local field.

References:
    Schweser 2011, doi:10.1016/j.neuroimage.2010.10.070 (SHARP); Wu 2012, doi:10.1002/mrm.23000 (varying radius).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from custom_transforms.physics.dipole import convolve
from custom_transforms.physics.smv import smv_kernel
from custom_transforms.preprocessing.pdf import margin_box

LARGEST_RADIUS_MM = 12.0
_SMALLEST_RADIUS_VOXELS = 1.5  # below it a ball is a cross of voxels, of which the mean is no spherical mean
_RATIO = 0.75  # of a radius to the one before
_WHOLE = 1 - 1e-4  # of a ball in the mask; the rest is rounding


def default_radii_mm(voxel_size_mm: Tensor) -> tuple[float, ...]:
    """Give radii from 12 mm down to 1.5 voxels, each 0.75 times the one before."""
    smallest = _SMALLEST_RADIUS_VOXELS * float(voxel_size_mm.max())
    count = max(0, math.floor(math.log(smallest / LARGEST_RADIUS_MM) / math.log(_RATIO)))
    larger = [LARGEST_RADIUS_MM * _RATIO**i for i in range(count + 1)]
    return (*(radius for radius in larger if radius > 1.05 * smallest), smallest)


def _subtract_means(
    field: Tensor, mask: Tensor, grid: list[int], voxel_size_mm: Tensor, radii_mm: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Give h and where it is known, both (1, 1, X, Y, Z)."""
    high_passed, known = torch.zeros_like(field), torch.zeros_like(mask, dtype=torch.bool)
    for radius in sorted(radii_mm, reverse=True):
        kernel = smv_kernel(grid, voxel_size_mm, radius)
        new = (convolve(mask, kernel, grid) > _WHOLE) & (mask > 0) & ~known
        high_passed = torch.where(new, field - convolve(field, kernel, grid), high_passed)
        known |= new
    return high_passed, known


def vsharp(
    total_field_ppm: Tensor,
    mask: Tensor,
    voxel_size_mm: Tensor,
    *,
    radii_mm: Sequence[float] | None = None,
    threshold: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Remove the background field by the equation at the head of this module.

    Args:
        total_field_ppm: (1, X, Y, Z) in ppm of B0, finite in the mask.
        mask: (1, X, Y, Z), above 0.5 in the brain.
        voxel_size_mm: (3,) in mm.
        radii_mm: of the balls in mm, each at least the largest voxel size; None is :func:`default_radii_mm`.
        threshold: t, of the truncated deconvolution.

    Returns:
        The local field in ppm and the mask of where it is known, 0 or 1, both (1, X, Y, Z), float32. The field is 0
        outside that mask.

    Raises:
        ValueError: shapes that differ, an empty mask, no radius, a radius smaller than a voxel, or a mask that holds
            no ball.

    References:
        Schweser 2011, doi:10.1016/j.neuroimage.2010.10.070; Wu 2012, doi:10.1002/mrm.23000.
    """
    if total_field_ppm.shape != mask.shape or total_field_ppm.ndim != 4:
        shapes = f"{tuple(total_field_ppm.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"the total field and its mask must both be (1, X, Y, Z), got {shapes}")
    voxel_size_mm = voxel_size_mm.to(total_field_ppm.device, torch.float32)
    radii_mm = default_radii_mm(voxel_size_mm) if radii_mm is None else tuple(radii_mm)
    if not radii_mm:
        raise ValueError("radii_mm is empty; give at least one radius in mm, e.g. 12, 6, 3")
    inside = (mask[None] > 0.5).float()
    box = margin_box(inside, voxel_size_mm, 2 * max(radii_mm))
    field, brain = box.cut(total_field_ppm[None].float().where(inside > 0, 0.0)), box.cut(inside)
    high_passed, known = _subtract_means(field, brain, box.grid, voxel_size_mm, radii_mm)
    if not bool(known.any()):
        raise ValueError(f"no ball of {min(radii_mm):g} mm fits into the mask; give smaller radii_mm or use PDF")
    transfer = 1 - smv_kernel(box.grid, voxel_size_mm, max(radii_mm))
    inverse = torch.where(transfer.abs() > threshold, 1 / transfer, 0.0)
    local = convolve(high_passed, inverse, box.grid) * known
    return box.restore(local)[0], box.restore(known.float())[0]
