r"""Random shapes: endless synthetic heads, made in batches on the device that trains.

A network that has only seen these knows no anatomy by heart. Each volume is

    tissue classes (argmax of smooth noise at two scales)  <-  nuclei  <-  haemorrhages and calcifications  <-  vessels

with log-normal susceptibilities (medians near those of tissue), multiplicative texture, and edges blurred by up to a
voxel, inside a random blob of a mask. Lengths are in units of the volume's mean voxel size, so that anisotropic
voxels see isotropic shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from custom_transforms import keys
from custom_transforms.phantom.random_draws import Draws, gaussian_noise, low_pass, rotations

VOXEL_SIZE_MM = (0.7, 1.3)
"""Range of the in-plane voxel size."""

SLICE_RATIO = 2.0
"""Largest ratio of the third voxel size to the other two."""

_COARSE, _FINE = 6, 3  # tissue classes at the two scales


@dataclass(frozen=True)
class Ellipsoids:
    """What a family of ellipsoids looks like: number, size and susceptibility.

    Args:
        number: how many may appear; each appears with ``probability``.
        probability: chance that one appears.
        radius_voxels: range of the semi-axes, log-uniform.
        strong_ppm: range of the dominant source, log-uniform.
        weak_ppm: range of the other source, log-uniform.
        diamagnetic: chance that the dominant source is the diamagnetic one.
    """

    number: int
    probability: float
    radius_voxels: tuple[float, float]
    strong_ppm: tuple[float, float]
    weak_ppm: tuple[float, float]
    diamagnetic: float


NUCLEI = Ellipsoids(8, 0.7, (3.0, 16.0), (0.03, 0.25), (0.003, 0.03), 0.2)
LESIONS = Ellipsoids(4, 0.4, (1.2, 6.0), (0.1, 3.0), (0.003, 0.03), 0.5)


class RandomShapes:
    """Batches of random tissue maps.

    Args:
        shape: spatial shape (X, Y, Z).
        voxel_size_mm: range of the in-plane voxel size.
        slice_ratio: largest ratio of the third voxel size to the other two.
        tilt_deg: largest angle between B0 and the third axis.
        nuclei: family of deep-grey-like ellipsoids.
        lesions: family of haemorrhages and calcifications, or None for none.
        vessels: number of tubes.
        texture: largest SD of the multiplicative texture.
        device: where the maps are made.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int] = (64, 64, 64),
        voxel_size_mm: tuple[float, float] = VOXEL_SIZE_MM,
        slice_ratio: float = SLICE_RATIO,
        tilt_deg: float = 45.0,
        nuclei: Ellipsoids = NUCLEI,
        lesions: Ellipsoids | None = LESIONS,
        vessels: int = 3,
        texture: float = 0.25,
        device: torch.device | str = "cpu",
    ) -> None:
        x, y, z = shape
        self.shape = (x, y, z)
        self.voxel_size_mm = voxel_size_mm
        self.slice_ratio = slice_ratio
        self.tilt_deg = tilt_deg
        self.nuclei = nuclei
        self.lesions = lesions
        self.vessels = vessels
        self.texture = texture
        self.device = torch.device(device)

    def __call__(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            batch: number of volumes B.
            generator: source of all randomness, on this object's device.

        Returns:
            chi_para, chi_dia (ppm), r2 (1/s), m0 (white matter = 1) and mask, each (B, 1, X, Y, Z) float32;
            voxel_size_mm (B, 3) and b0_direction (B, 3), unit vectors in voxel axes.
        """
        draws = Draws(batch, generator, self.device)
        voxel_size_mm = self._voxel_size_mm(draws)
        grid = self._grid(voxel_size_mm)
        chi, r2, m0 = self._tissue(draws, voxel_size_mm)
        warp = gaussian_noise(draws, 1, self.shape, voxel_size_mm, sigma=draws.uniform(2.0, 6.0))
        for family in (self.nuclei, self.lesions):
            chi = chi if family is None else _paint_ellipsoids(draws, chi, grid, warp, family)
        chi = _paint_vessels(draws, chi, grid, self.vessels)
        chi = self._texture(draws, chi, voxel_size_mm)
        chi = low_pass(chi, voxel_size_mm, sigma=draws.uniform(0.2, 0.7)).clamp(min=0.0)
        mask = self._mask(draws, grid, voxel_size_mm)
        return {
            keys.CHI_PARA: chi[:, 0:1] * mask,
            keys.CHI_DIA: chi[:, 1:2] * mask,
            keys.R2: r2 * mask,
            keys.PROTON_DENSITY: m0 * mask,
            keys.MASK: mask,
            keys.VOXEL_SIZE_MM: voxel_size_mm,
            keys.B0_DIRECTION: self._b0_direction(draws),
        }

    def _voxel_size_mm(self, draws: Draws) -> Tensor:
        in_plane = draws.uniform(*self.voxel_size_mm)
        # half of the volumes are isotropic
        ratio = torch.where(draws.uniform(0.0, 1.0) < 0.5, 1.0, draws.uniform(1.0, self.slice_ratio))
        return torch.stack([in_plane, in_plane, in_plane * ratio], dim=1)

    def _b0_direction(self, draws: Draws) -> Tensor:
        tilt = torch.deg2rad(draws.uniform(0.0, self.tilt_deg))
        azimuth = draws.uniform(0.0, 2 * torch.pi)
        return torch.stack([tilt.sin() * azimuth.cos(), tilt.sin() * azimuth.sin(), tilt.cos()], dim=1)

    def _grid(self, voxel_size_mm: Tensor) -> Tensor:
        """Give coordinates from the centre in units of the mean voxel size, (B, 3, X, Y, Z)."""
        axes = [torch.arange(n, device=self.device) - (n - 1) / 2 for n in self.shape]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        relative = voxel_size_mm / voxel_size_mm.log().mean(dim=1, keepdim=True).exp()
        return index[None] * relative[:, :, None, None, None]

    def _tissue(self, draws: Draws, voxel_size_mm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give chi (B, 2, ...), R2 and m0 of the background: one set of values for each pair of classes."""
        length = sum(self.shape) / 3
        coarse = gaussian_noise(draws, _COARSE, self.shape, voxel_size_mm, sigma=draws.uniform(0.05, 0.1) * length)
        fine = gaussian_noise(draws, _FINE, self.shape, voxel_size_mm, sigma=draws.uniform(1.5, 4.0))
        label = coarse.argmax(dim=1) * _FINE + fine.argmax(dim=1)
        classes = (_COARSE * _FINE,)
        para = draws.log_normal(0.02, 0.6, (_COARSE,)).repeat_interleave(_FINE, 1) * draws.log_normal(1.0, 0.4, classes)
        dia = draws.log_normal(0.022, 0.6, (_COARSE,)).repeat_interleave(_FINE, 1) * draws.log_normal(1.0, 0.4, classes)
        r2 = draws.log_normal(13.0, 0.3, classes)
        m0 = draws.log_normal(0.9, 0.12, classes)
        fluid = draws.uniform(0.0, 1.0, classes) < 0.12
        dilution = torch.where(fluid, 0.05, 1.0)
        table = torch.stack([para * dilution, dia * dilution, torch.where(fluid, 0.7, r2), m0], dim=1)
        maps = table.gather(2, label.flatten(1)[:, None].expand(-1, 4, -1)).unflatten(2, self.shape)
        return maps[:, 0:2], maps[:, 2:3], maps[:, 3:4]

    def _texture(self, draws: Draws, chi: Tensor, voxel_size_mm: Tensor) -> Tensor:
        fine = gaussian_noise(draws, 2, self.shape, voxel_size_mm, sigma=draws.uniform(0.5, 3.0))
        slow = gaussian_noise(draws, 2, self.shape, voxel_size_mm, sigma=draws.uniform(6.0, 15.0))
        sd = draws.uniform(0.0, self.texture)[:, None, None, None, None]
        return chi * torch.exp(sd * fine + 0.15 * slow)

    def _mask(self, draws: Draws, grid: Tensor, voxel_size_mm: Tensor) -> Tensor:
        half = torch.stack([grid[:, i].flatten(1).amax(1) for i in range(3)], dim=1)
        axes = half * draws.uniform(0.85, 1.15, (3,))
        rough = gaussian_noise(draws, 1, self.shape, voxel_size_mm, sigma=draws.uniform(3.0, 8.0))
        radius = _length(grid / axes[:, :, None, None, None])
        return (radius + 0.06 * rough < 1).float()


def _length(vectors: Tensor) -> Tensor:
    # much faster on a CPU than norm() over the channel axis
    return vectors.square().sum(dim=1, keepdim=True).sqrt()


def _paint_ellipsoids(draws: Draws, chi: Tensor, grid: Tensor, warp: Tensor, family: Ellipsoids) -> Tensor:
    extent = grid.flatten(2).amax(2)
    for frame in rotations(draws, family.number).unbind(1):
        centre = extent * draws.uniform(-0.8, 0.8, (3,))
        axes = draws.log_uniform(*family.radius_voxels, (3,))
        local = torch.einsum("bij,bjxyz->bixyz", frame / axes[:, :, None], grid - centre[:, :, None, None, None])
        # the smooth warp makes the outline irregular; one voxel of soft edge
        distance = (1.0 + 0.15 * warp - _length(local)) * axes.amin(dim=1)[:, None, None, None, None]
        shown = (draws.uniform(0.0, 1.0) < family.probability).float()[:, None, None, None, None]
        alpha = shown * (distance + 0.5).clamp(0.0, 1.0)
        strong = draws.log_uniform(*family.strong_ppm)
        weak = draws.log_uniform(*family.weak_ppm)
        flip = draws.uniform(0.0, 1.0) < family.diamagnetic
        pair = torch.stack([torch.where(flip, weak, strong), torch.where(flip, strong, weak)], dim=1)
        chi = torch.lerp(chi, pair[:, :, None, None, None], alpha)
    return chi


def _paint_vessels(draws: Draws, chi: Tensor, grid: Tensor, number: int) -> Tensor:
    """Paint wavy tubes of venous blood: chi_para 0.1 to 0.45 ppm."""
    extent = grid.flatten(2).amax(2)
    for frame in rotations(draws, number).unbind(1):
        centre = extent * draws.uniform(-0.7, 0.7, (3,))
        r = grid - centre[:, :, None, None, None]
        along, u, v = torch.einsum("bij,bjxyz->bixyz", frame, r).split(1, dim=1)
        amplitude = draws.uniform(0.0, 5.0)[:, None, None, None, None]
        period = draws.uniform(20.0, 60.0)[:, None, None, None, None]
        wave = torch.sin(2 * torch.pi * along / period) * amplitude
        radius = draws.log_uniform(0.5, 2.0)[:, None, None, None, None]
        distance = radius - torch.hypot(u - wave, v)
        alpha = (distance + 0.5).clamp(0.0, 1.0)
        pair = torch.stack([draws.uniform(0.1, 0.45), draws.log_uniform(0.002, 0.02)], dim=1)
        chi = torch.lerp(chi, pair[:, :, None, None, None], alpha)
    return chi
