"""What the phantoms of training are: batches of tissue maps on random voxel grids, in random positions to B0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.random_draws import (
    LONGEST_MM,
    SLICE_RATIO,
    VOXEL_SIZE_MM,
    Draws,
    Range,
    draw_b0_direction,
    draw_voxel_size_mm,
    low_pass,
)
from custom_transforms.phantom.shapes import LESIONS, VESSELS, Canvas, Ellipsoids, Vessels


@dataclass(frozen=True, kw_only=True)
class TrainingPhantom(ABC):
    """Batches of tissue maps; ranges are [low, high].

    Lengths in voxels are in units of the volume's mean voxel size, and multiplied by its ``detail``.

    Args:
        shape: spatial shape (X, Y, Z).
        voxel_size_mm: range of the voxel size along the two equal axes.
        slice_ratio: largest ratio of the third axis, mostly z, to the other two.
        longest_mm: largest voxel size along it.
        tilt_deg: largest angle between B0 and the third axis.
        detail: range of the factor of the lengths of structures, log-uniform.
        edge_voxels: range of the SD of the blur of edges.
        lesions: family of haemorrhages and calcifications, or None for none.
        vessels: what vessels look like, or None for none.
        texture: largest SD of the multiplicative texture.
        gradient: SD of the slow multiplicative gradient.
        device: where the maps are made.
    """

    shape: Sequence[int] = (64, 64, 64)
    voxel_size_mm: Range = VOXEL_SIZE_MM
    slice_ratio: float = SLICE_RATIO
    longest_mm: float = LONGEST_MM
    tilt_deg: float = 45.0
    detail: Range = (0.6, 1.4)
    edge_voxels: Range = (0.2, 0.7)
    lesions: Ellipsoids | None = LESIONS
    vessels: Vessels | None = VESSELS
    texture: float = 0.25
    gradient: float = 0.15
    device: torch.device | str = "cpu"

    def __call__(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            batch: number of volumes B.
            generator: source of all randomness, on this object's device.

        Returns:
            chi_para, chi_dia (ppm), r2 (1/s), m0 (white matter = 1) and mask, each (B, 1, X, Y, Z) float32;
            voxel_size_mm (B, 3) and b0_direction (B, 3), unit vectors in voxel axes.
        """
        draws = Draws(batch, generator, torch.device(self.device))
        voxel_size_mm = draw_voxel_size_mm(draws, self.voxel_size_mm, self.slice_ratio, self.longest_mm)
        canvas = Canvas(self.shape, voxel_size_mm, draws.log_uniform(*self.detail))
        maps, mask = self._paint(draws, canvas)
        maps = low_pass(maps, voxel_size_mm, sigma=draws.uniform(*self.edge_voxels))
        chi_para, chi_dia, r2, m0 = (maps.clamp(min=0.0) * mask).split(1, dim=1)
        return {
            keys.CHI_PARA: chi_para,
            keys.CHI_DIA: chi_dia,
            keys.R2: r2,
            keys.PROTON_DENSITY: m0,
            keys.MASK: mask,
            keys.VOXEL_SIZE_MM: voxel_size_mm,
            keys.B0_DIRECTION: draw_b0_direction(draws, self.tilt_deg),
        }

    @abstractmethod
    def _paint(self, draws: Draws, canvas: Canvas) -> tuple[Tensor, Tensor]:
        """Give the maps with sharp edges, (B, 4, X, Y, Z), and the mask, (B, 1, X, Y, Z)."""
