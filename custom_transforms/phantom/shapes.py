"""What the phantoms of training share: ellipsoids, vessels and texture painted into their maps.

Lengths are in units of the volume's mean voxel size, so that anisotropic voxels see isotropic shapes, times a factor
for each volume, its detail. Maps have four channels: chi_para and chi_dia (ppm), R2 (1/s) and m0 (white matter = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms.phantom.random_draws import Draws, Range, gaussian_noise, relative_voxel_size, rotations

R2_LIMIT_PER_S = 60.0  # what the sources raise R2 to at most


@dataclass(frozen=True)
class Ellipsoids:
    """What a family of ellipsoids looks like: number, size, susceptibility, R2 and m0; ranges are [low, high].

    Args:
        number: how many may appear; each appears with ``probability``.
        probability: chance that one appears.
        radius_voxels: range of the semi-axes, log-uniform.
        strong_ppm: range of the dominant source, log-uniform.
        weak_ppm: range of the other source, log-uniform.
        diamagnetic: chance that the dominant source is the diamagnetic one.
        r2_per_s: range of R2.
        m0: range of m0.
    """

    number: int
    probability: float
    radius_voxels: Range
    strong_ppm: Range
    weak_ppm: Range
    diamagnetic: float
    r2_per_s: Range
    m0: Range


@dataclass(frozen=True)
class Vessels:
    """What wavy tubes of venous blood look like; ranges are [low, high].

    Args:
        number: how many there are.
        radius_voxels: range of the radius, log-uniform.
        amplitude_voxels: range of the amplitude of the wave.
        period_voxels: range of its period.
        para_ppm: range of chi_para.
        dia_ppm: range of chi_dia, log-uniform.
        r2_per_s: range of R2.
        m0: range of m0.
    """

    number: int = 3
    radius_voxels: Range = (0.5, 2.0)
    amplitude_voxels: Range = (0.0, 5.0)
    period_voxels: Range = (20.0, 60.0)
    para_ppm: Range = (0.1, 0.45)
    dia_ppm: Range = (0.002, 0.02)
    r2_per_s: Range = (20.0, 60.0)
    m0: Range = (0.7, 1.0)


NUCLEI = Ellipsoids(
    number=8,
    probability=0.7,
    radius_voxels=(3.0, 16.0),
    strong_ppm=(0.03, 0.25),
    weak_ppm=(0.003, 0.03),
    diamagnetic=0.2,
    r2_per_s=(6.0, 16.0),
    m0=(0.7, 1.1),
)
LESIONS = Ellipsoids(
    number=4,
    probability=0.4,
    radius_voxels=(1.2, 6.0),
    strong_ppm=(0.1, 3.0),
    weak_ppm=(0.003, 0.03),
    diamagnetic=0.5,
    r2_per_s=(15.0, 60.0),
    m0=(0.4, 1.0),
)
VESSELS = Vessels()


@dataclass(frozen=True)
class Canvas:
    """The voxel grids of a batch.

    Attributes:
        shape: (X, Y, Z).
        voxel_size_mm: (B, 3).
        detail: (B,), the factor of all lengths of structures.
    """

    shape: Sequence[int]
    voxel_size_mm: Tensor
    detail: Tensor

    def positions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions along each axis from the centre, (B, 1, X, 1, 1), (B, 1, 1, Y, 1) and (B, 1, 1, 1, Z)."""
        steps = [torch.arange(n, device=self.detail.device) - (n - 1) / 2 for n in self.shape]
        x, y, z = (
            size[:, None] * s for size, s in zip(relative_voxel_size(self.voxel_size_mm).unbind(1), steps, strict=True)
        )
        return x[:, None, :, None, None], y[:, None, None, :, None], z[:, None, None, None, :]

    def reach(self) -> Tensor:
        """Distance of the outermost voxels from the centre, (B, 3)."""
        return relative_voxel_size(self.voxel_size_mm) * (torch.tensor(self.shape, device=self.detail.device) - 1) / 2

    def noise(self, draws: Draws, channels: int, length: Tensor) -> Tensor:
        """Smooth noise of SD 1, (B, C, X, Y, Z), by a Gaussian of SD ``length`` (B,), to be multiplied by detail."""
        return gaussian_noise(draws, channels, self.shape, self.voxel_size_mm, sigma=length * self.detail)


def paint_ellipsoids(
    maps: Tensor, draws: Draws, canvas: Canvas, family: Ellipsoids, *, warp: Tensor, r2_slopes: Tensor | None = None
) -> Tensor:
    """Paint a family of ellipsoids with irregular outlines over the maps.

    Args:
        maps: (B, 4, X, Y, Z).
        draws: source of randomness.
        canvas: the voxel grids.
        family: what they look like.
        warp: smooth noise of SD 1 that makes the outline irregular, (B, 1, X, Y, Z).
        r2_slopes: (B, 2), 1/s/ppm, by which chi_para and chi_dia raise R2, up to 60 1/s; None where they do not.

    Returns:
        New maps.
    """
    positions, reach = canvas.positions(), canvas.reach()
    for frame in rotations(draws, family.number).unbind(1):
        offsets = _offsets(positions, reach * draws.uniform(-0.8, 0.8, (3,)))
        axes = draws.log_uniform(*family.radius_voxels, (3,)) * canvas.detail[:, None]
        u, v, w = (_project(row, offsets) for row in (frame / axes[:, :, None]).unbind(1))
        distance = (1.0 + 0.15 * warp - (u * u + v * v + w * w).sqrt()) * _column(axes.amin(dim=1))
        shown = draws.uniform(0.0, 1.0) < family.probability
        maps = _blend(maps, _draw_values(draws, family, r2_slopes), distance, shown)
    return maps


def paint_vessels(maps: Tensor, draws: Draws, canvas: Canvas, vessels: Vessels) -> Tensor:
    """Paint wavy tubes over maps (B, 4, X, Y, Z)."""
    positions, reach = canvas.positions(), canvas.reach()
    for frame in rotations(draws, vessels.number).unbind(1):
        offsets = _offsets(positions, reach * draws.uniform(-0.7, 0.7, (3,)))
        along, u, v = (_project(row, offsets) for row in frame.unbind(1))
        amplitude, period, radius = (
            _column(length * canvas.detail)
            for length in (
                draws.uniform(*vessels.amplitude_voxels),
                draws.uniform(*vessels.period_voxels),
                draws.log_uniform(*vessels.radius_voxels),
            )
        )
        distance = radius - torch.hypot(u - amplitude * torch.sin(2 * torch.pi * along / period), v)
        values = [draws.uniform(*vessels.para_ppm), draws.log_uniform(*vessels.dia_ppm)]
        values += [draws.uniform(*vessels.r2_per_s), draws.uniform(*vessels.m0)]
        maps = _blend(maps, torch.stack(values, dim=1), distance, torch.ones_like(values[0]))
    return maps


def texture_factor(draws: Draws, canvas: Canvas, texture: float, gradient: float) -> Tensor:
    """Multiplicative change of chi_para and chi_dia inside structures, (B, 2, X, Y, Z), log-normal around 1.

    The SD of the fine texture is uniform up to ``texture``, that of the slow gradient is ``gradient``.
    """
    fine = canvas.noise(draws, 2, draws.uniform(0.5, 3.0))
    slow = canvas.noise(draws, 2, draws.uniform(6.0, 15.0))
    return torch.exp(_column(draws.uniform(0.0, texture)) * fine + gradient * slow)


def raised_r2(r2: Tensor, chi: Tensor, slopes: Tensor) -> Tensor:
    """R2 + slopes . chi, at most 60 1/s: r2 (B, ...) in 1/s, chi (B, 2, ...) in ppm, slopes (B, 2) in 1/s/ppm."""
    rise = (chi * slopes.reshape(*slopes.shape, *[1] * (chi.ndim - 2))).sum(dim=1)
    return (r2 + rise).clamp(max=R2_LIMIT_PER_S)


def _draw_values(draws: Draws, family: Ellipsoids, r2_slopes: Tensor | None) -> Tensor:
    """Values of the four maps in an ellipsoid, (B, 4)."""
    strong, weak = draws.log_uniform(*family.strong_ppm), draws.log_uniform(*family.weak_ppm)
    flip = draws.uniform(0.0, 1.0) < family.diamagnetic
    chi = torch.stack([torch.where(flip, weak, strong), torch.where(flip, strong, weak)], dim=1)
    r2, m0 = draws.uniform(*family.r2_per_s), draws.uniform(*family.m0)
    if r2_slopes is not None:
        r2 = raised_r2(r2, chi, r2_slopes)
    return torch.stack([*chi.unbind(1), r2, m0], dim=1)


def _blend(maps: Tensor, values: Tensor, distance: Tensor, shown: Tensor) -> Tensor:
    """Put values (B, 4) inside a surface, by the distance from it (positive inside), with one voxel of soft edge."""
    coverage = (distance + 0.5).clamp(0.0, 1.0) * _column(shown)
    return torch.lerp(maps, values[:, :, None, None, None], coverage)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None, None]


def _offsets(positions: tuple[Tensor, Tensor, Tensor], centre: Tensor) -> list[Tensor]:
    return [position - _column(c) for position, c in zip(positions, centre.unbind(1), strict=True)]


def _project(direction: Tensor, offsets: list[Tensor]) -> Tensor:
    """Inner product of (B, 3) with positions: only its last sum is as large as the volume."""
    x, y, z = (_column(d) * offset for d, offset in zip(direction.unbind(1), offsets, strict=True))
    return x + y + z
