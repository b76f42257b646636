"""Rotation of a volume on its own grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate_volume(volume: Tensor, rotation: Tensor, voxel_size_mm: Tensor) -> Tensor:
    """Rotate a volume about its centre, x'(p) = x(R^T p) with p in mm; trilinear, 0 from beyond the edge.

    Args:
        volume: (C, X, Y, Z), any unit.
        rotation: R, (3, 3) float64, in voxel axes.
        voxel_size_mm: (3,) in mm; the grid stays as it is.

    Returns:
        (C, X, Y, Z), same unit.
    """
    half_width_mm = voxel_size_mm.double().cpu() * (torch.tensor(volume.shape[1:]) - 1) / 2
    # affine_grid has coordinates of -1 to 1 between the outermost voxels, the last axis first
    matrix = rotation.T * half_width_mm / half_width_mm[:, None]
    theta = F.pad(matrix.flip(0, 1), (0, 1))[None].to(volume)
    grid = F.affine_grid(theta, [1, *volume.shape], align_corners=True)
    return F.grid_sample(volume[None], grid, align_corners=True)[0]
