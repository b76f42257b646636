"""The smallest box around the mask, with a margin against wrap-around: where iterative methods compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from custom_transforms.physics.dipole import padded_shape


@dataclass(frozen=True)
class BrainBox:
    """A part of a volume, and the periodic grid that it is computed on.

    Attributes:
        low: index of its first voxel in the volume.
        shape: its voxels along each axis.
        grid: the same with the margin after them.
        volume: (X, Y, Z) of the whole volume.
    """

    low: tuple[int, int, int]
    shape: tuple[int, int, int]
    grid: list[int]
    volume: tuple[int, int, int]

    @classmethod
    def around(cls, mask: Tensor, *, padding: float) -> BrainBox:
        """Lay the box around the masks of a batch.

        Args:
            mask: (B, 1, X, Y, Z), above 0 inside.
            padding: relative margin against wrap-around.

        Raises:
            ValueError: no voxel is inside.
        """
        inside = (mask > 0).any(dim=1).any(dim=0).nonzero()
        if not len(inside):
            raise ValueError("the mask is empty: no voxel is above 0; give a mask with 1 in the brain")
        i, j, k = inside.amin(dim=0).tolist()
        x, y, z = (inside.amax(dim=0) - inside.amin(dim=0) + 1).tolist()
        volume = (mask.shape[-3], mask.shape[-2], mask.shape[-1])
        return cls((i, j, k), (x, y, z), padded_shape([x, y, z], padding), volume)

    def cut(self, maps: Tensor) -> Tensor:
        """Bring maps (B, C, X, Y, Z) of the volume to the grid, zero in the margin."""
        for axis, (low, n) in enumerate(zip(self.low, self.shape, strict=True)):
            maps = maps.narrow(axis - 3, low, n)
        margin = [grid - n for grid, n in zip(self.grid, self.shape, strict=True)]
        return pad(maps, [0, margin[2], 0, margin[1], 0, margin[0]])

    def restore(self, maps: Tensor) -> Tensor:
        """Bring maps (B, C, *grid) back to the volume, zero outside the box."""
        x, y, z = self.shape
        result = torch.zeros(*maps.shape[:2], *self.volume, dtype=maps.dtype, device=maps.device)
        i, j, k = self.low
        result[..., i : i + x, j : j + y, k : k + z] = maps[..., :x, :y, :z]
        return result
