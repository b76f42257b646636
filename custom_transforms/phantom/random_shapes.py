r"""Random shapes: endless synthetic heads, made in batches on the device that trains.

A network that has only seen these knows no anatomy by heart. Each volume is

    tissue classes (argmax of smooth noise at two scales)  <-  nuclei  <-  haemorrhages and calcifications  <-  vessels

with log-normal susceptibilities (medians near those of tissue), an R2 that rises with both sources as it does with
iron and myelin, multiplicative texture, and edges blurred by up to a voxel, inside a random blob of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
from custom_transforms.phantom.shapes import (
    LESIONS,
    NUCLEI,
    VESSELS,
    Canvas,
    Ellipsoids,
    Vessels,
    paint_ellipsoids,
    paint_vessels,
    raised_r2,
    texture_factor,
    tissue_maps,
)

_COARSE, _FINE = 6, 3  # tissue classes at the two scales
_FLUID_R2_PER_S = 0.7


@dataclass(frozen=True, kw_only=True)
class RandomShapes:
    """Batches of random tissue maps; ranges are [low, high].

    Lengths in voxels are in units of the volume's mean voxel size, and multiplied by its ``detail``.

    Args:
        shape: spatial shape (X, Y, Z).
        voxel_size_mm: range of the voxel size along the two equal axes.
        slice_ratio: largest ratio of the third axis, mostly z, to the other two.
        longest_mm: largest voxel size along it.
        tilt_deg: largest angle between B0 and the third axis.
        detail: range of the factor of all lengths of structures, log-uniform.
        edge_voxels: range of the SD of the blur of edges.
        coarse: range of the SD of the coarse classes' noise, as a fraction of the volume's width.
        fine_voxels: range of the SD of the fine classes' noise.
        r2_per_para: range of the slope of R2 over chi_para, 1/s/ppm.
        r2_per_dia: range of the slope of R2 over chi_dia, 1/s/ppm.
        nuclei: family of deep-grey-like ellipsoids, or None for none.
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
    coarse: Range = (0.05, 0.1)
    fine_voxels: Range = (1.5, 4.0)
    r2_per_para: Range = (0.0, 60.0)
    r2_per_dia: Range = (0.0, 150.0)
    nuclei: Ellipsoids | None = NUCLEI
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
        maps = self._shapes(draws, canvas)
        maps = torch.cat([maps[:, :2] * texture_factor(draws, canvas, self.texture, self.gradient), maps[:, 2:]], dim=1)
        maps = low_pass(maps, voxel_size_mm, sigma=draws.uniform(*self.edge_voxels))
        return tissue_maps(maps, _draw_mask(draws, canvas), voxel_size_mm, draw_b0_direction(draws, self.tilt_deg))

    def _shapes(self, draws: Draws, canvas: Canvas) -> Tensor:
        """The maps before texture and blur, (B, 4, X, Y, Z)."""
        slopes = torch.stack([draws.uniform(*self.r2_per_para), draws.uniform(*self.r2_per_dia)], dim=1)
        maps = self._tissue(draws, canvas, slopes)
        warp = canvas.noise(draws, 1, draws.uniform(2.0, 6.0))
        if self.nuclei is not None:
            maps = paint_ellipsoids(maps, draws, canvas, self.nuclei, warp=warp, r2_slopes=slopes)
        if self.lesions is not None:
            maps = paint_ellipsoids(maps, draws, canvas, self.lesions, warp=warp)
        return maps if self.vessels is None else paint_vessels(maps, draws, canvas, self.vessels)

    def _tissue(self, draws: Draws, canvas: Canvas, r2_slopes: Tensor) -> Tensor:
        """The background, (B, 4, X, Y, Z): one set of values for each pair of classes."""
        width = sum(self.shape) / 3
        coarse = canvas.noise(draws, _COARSE, draws.uniform(*self.coarse) * width)
        fine = canvas.noise(draws, _FINE, draws.uniform(*self.fine_voxels))
        label = coarse.max(dim=1).indices * _FINE + fine.max(dim=1).indices  # argmax is six times as slow
        classes = (_COARSE * _FINE,)
        para, dia = (
            draws.log_normal(median, 0.6, (_COARSE,)).repeat_interleave(_FINE, 1) * draws.log_normal(1.0, 0.4, classes)
            for median in (0.02, 0.022)
        )
        fluid = draws.uniform(0.0, 1.0, classes) < 0.12
        chi = torch.stack([para, dia], dim=1) * torch.where(fluid, 0.05, 1.0)[:, None]
        r2 = raised_r2(draws.log_normal(10.0, 0.3, classes), chi, r2_slopes)
        r2 = torch.where(fluid, _FLUID_R2_PER_S, r2)
        table = torch.stack([*chi.unbind(1), r2, draws.log_normal(0.9, 0.12, classes)], dim=1)
        return table.gather(2, label.flatten(1)[:, None].expand(-1, 4, -1)).unflatten(2, self.shape)


def _draw_mask(draws: Draws, canvas: Canvas) -> Tensor:
    """An ellipsoid about as large as the volume, with a rough surface, (B, 1, X, Y, Z), 0 or 1."""
    axes = canvas.reach() * draws.uniform(0.85, 1.15, (3,))
    rough = canvas.noise(draws, 1, draws.uniform(3.0, 8.0))
    x, y, z = (p / a[:, None, None, None, None] for p, a in zip(canvas.positions(), axes.unbind(1), strict=True))
    return ((x * x + y * y + z * z).sqrt() + 0.06 * rough < 1).float()
