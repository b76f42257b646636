r"""Random shapes: endless synthetic heads, made in batches on the device that trains.

A network that has only seen these knows no anatomy by heart. Each volume is

    tissue classes (argmax of smooth noise at two scales)  <-  nuclei  <-  haemorrhages and calcifications  <-  vessels

with log-normal susceptibilities (medians near those of tissue), an R2 that rises with both sources as it does with
iron and myelin, multiplicative texture, and edges blurred by up to a voxel, inside a random blob of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.random_draws import Draws, Range
from custom_transforms.phantom.shapes import (
    NUCLEI,
    Canvas,
    Ellipsoids,
    paint_ellipsoids,
    paint_vessels,
    raised_r2,
    texture_factor,
)
from custom_transforms.phantom.training_phantom import TrainingPhantom

_COARSE, _FINE = 6, 3  # tissue classes at the two scales
_FLUID_R2_PER_S = 0.7


@dataclass(frozen=True, kw_only=True)
class RandomShapes(TrainingPhantom):
    """Batches of random tissue maps; ranges are [low, high], the other arguments those of :class:`TrainingPhantom`.

    Args:
        coarse: range of the SD of the coarse classes' noise, as a fraction of the volume's width.
        fine_voxels: range of the SD of the fine classes' noise.
        r2_per_para: range of the slope of R2 over chi_para, 1/s/ppm.
        r2_per_dia: range of the slope of R2 over chi_dia, 1/s/ppm.
        nuclei: family of deep-grey-like ellipsoids, or None for none.
    """

    coarse: Range = (0.05, 0.1)
    fine_voxels: Range = (1.5, 4.0)
    r2_per_para: Range = (0.0, 60.0)
    r2_per_dia: Range = (0.0, 150.0)
    nuclei: Ellipsoids | None = NUCLEI

    def _paint(self, draws: Draws, canvas: Canvas) -> tuple[Tensor, Tensor]:
        maps = self._shapes(draws, canvas)
        change = texture_factor(draws, canvas, self.texture, self.gradient)
        return torch.cat([maps[:, :2] * change, maps[:, 2:]], dim=1), _draw_mask(draws, canvas)

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
