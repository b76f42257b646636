"""Sampling of a volume on a rotated or scaled grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SLAB = 16  # planes sampled at a time, which bounds the memory


def sample_affine(
    volume: Tensor,
    matrix: Tensor,
    offset: Tensor,
    shape: tuple[int, int, int],
    *,
    samples: tuple[int, int, int] = (1, 1, 1),
) -> Tensor:
    """Sample a volume on another grid, x'(j) = x(M j + o) with voxel indices j; trilinear, 0 from beyond the edge.

    With several samples along an axis, every new voxel is their mean over its extent: the low-pass that a coarser grid
    needs against aliasing.

    Args:
        volume: (C, X, Y, Z), any unit; an axis of one voxel continues without end.
        matrix: M, (3, 3), voxels of the volume per new voxel.
        offset: o, (3,), in voxels of the volume.
        shape: the new grid.
        samples: number of samples along each axis of a new voxel.

    Returns:
        (C, *shape), same unit.
    """
    matrix, offset = matrix.double().cpu(), offset.double().cpu()
    if samples != (1, 1, 1):
        factor = torch.tensor(samples).double()
        matrix, offset = matrix / factor, offset + matrix @ ((1 - factor) / (2 * factor))
    slabs = []
    for start in range(0, shape[0], _SLAB):
        planes = min(_SLAB, shape[0] - start)
        size = [planes * samples[0], shape[1] * samples[1], shape[2] * samples[2]]
        slab = _sample(volume, matrix, offset + matrix[:, 0] * start * samples[0], size)
        slabs.append(F.avg_pool3d(slab, samples) if samples != (1, 1, 1) else slab)
    return torch.cat(slabs, dim=1)


def _sample(volume: Tensor, matrix: Tensor, offset: Tensor, size: list[int]) -> Tensor:
    # grid_sample counts -1 to 1 between the outermost voxels, the last axis first
    scale = 2 / (torch.tensor(volume.shape[1:]) - 1).clamp(min=1).double()
    steps = (scale[:, None] * matrix).flip(0).to(volume)
    axes = [
        torch.arange(n, device=volume.device).to(volume)[:, None] * step for n, step in zip(size, steps.T, strict=True)
    ]
    grid = (scale * offset - 1).flip(0).to(volume) + axes[0][:, None, None] + axes[1][:, None] + axes[2]
    return F.grid_sample(volume[None], grid[None], align_corners=True)[0]


def rotate_volume(volume: Tensor, rotation: Tensor, voxel_size_mm: Tensor) -> Tensor:
    """Rotate a volume about its centre, x'(p) = x(R^T p) with p in mm; trilinear, 0 from beyond the edge.

    Args:
        volume: (C, X, Y, Z), any unit.
        rotation: R, (3, 3) float64, in voxel axes.
        voxel_size_mm: (3,) in mm; the grid stays as it is.

    Returns:
        (C, X, Y, Z), same unit.
    """
    voxel_size_mm = voxel_size_mm.double().cpu()
    matrix = rotation.T * voxel_size_mm / voxel_size_mm[:, None]
    x, y, z = volume.shape[1:]
    centre = (torch.tensor([x, y, z]).double() - 1) / 2
    return sample_affine(volume, matrix, centre - matrix @ centre, (x, y, z))
