"""Seeded random numbers, one row for each volume of a batch: geometry, rotations, and smooth Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Range = tuple[float, float]  # low, high; in JSON a list of two

VOXEL_SIZE_MM = (0.5, 2.5)
"""Range of the voxel size along the two equal axes."""

SLICE_RATIO = 4.0
"""Largest ratio of the third axis to the other two."""

LONGEST_MM = 5.0
"""Largest voxel size along any axis."""


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch, of shape (batch, *shape), from one generator."""

    batch: int
    generator: torch.Generator
    device: torch.device

    def uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw uniformly between ``low`` and ``high``."""
        unit = torch.rand((self.batch, *shape), generator=self.generator, device=self.device)
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw with a logarithm uniform between those of ``low`` and ``high``."""
        return self.uniform(math.log(low), math.log(high), shape).exp()

    def normal(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw from the standard normal distribution."""
        return torch.randn((self.batch, *shape), generator=self.generator, device=self.device)

    def log_normal(self, median: float, sigma: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw with a given median and SD of the logarithm."""
        return median * (sigma * self.normal(shape)).exp()


def relative_voxel_size(voxel_size_mm: Tensor) -> Tensor:
    """Voxel sizes (B, 3) in units of their geometric mean, the mean voxel size."""
    return voxel_size_mm / voxel_size_mm.log().mean(dim=1, keepdim=True).exp()


def _low_pass_transfer(shape: Sequence[int], voxel_size_mm: Tensor, sigma: Tensor) -> Tensor:
    """Transfer function of a Gaussian of SD ``sigma``, (B, 1, X, Y, Z // 2 + 1)."""
    relative = relative_voxel_size(voxel_size_mm)
    exponent = torch.zeros((), device=voxel_size_mm.device)
    for axis, n in enumerate(shape):
        k = torch.fft.rfftfreq(n) if axis == 2 else torch.fft.fftfreq(n)
        k = k.to(voxel_size_mm.device) / relative[:, axis : axis + 1]
        view = [len(voxel_size_mm), 1, 1, 1, 1]
        view[axis + 2] = -1
        exponent = exponent + (k * k).view(view)
    return torch.exp(-2 * math.pi**2 * sigma[:, None, None, None, None] ** 2 * exponent)


def low_pass(volume: Tensor, voxel_size_mm: Tensor, *, sigma: Tensor) -> Tensor:
    """Smooth (B, C, X, Y, Z), periodically, with a Gaussian of SD ``sigma`` (B,), in units of the mean voxel size."""
    shape = tuple(volume.shape[2:])
    transfer = _low_pass_transfer(shape, voxel_size_mm, sigma)
    return torch.fft.irfftn(torch.fft.rfftn(volume, dim=(2, 3, 4)) * transfer, s=shape, dim=(2, 3, 4))


def gaussian_noise(
    draws: Draws, channels: int, shape: Sequence[int], voxel_size_mm: Tensor, *, sigma: Tensor
) -> Tensor:
    """Make smooth noise of mean 0 and SD 1: white noise through :func:`low_pass`.

    Args:
        draws: source of randomness for a batch of B.
        channels: independent maps C.
        shape: spatial shape (X, Y, Z).
        voxel_size_mm: (B, 3).
        sigma: (B,) SD of the Gaussian filter in units of the mean voxel size; at most a quarter of the volume is used.

    Returns:
        (B, C, X, Y, Z).
    """
    # Waves longer than the volume would leave rounding errors, or nothing, to normalise
    sigma = sigma.clamp(max=min(shape) / 4)
    smooth = low_pass(draws.normal((channels, *shape)), voxel_size_mm, sigma=sigma)
    sd, mean = torch.std_mean(smooth, dim=(2, 3, 4), keepdim=True)
    return (smooth - mean) / sd


def rotations(draws: Draws, number: int) -> Tensor:
    """Draw orthogonal matrices, uniformly, (B, number, 3, 3): QR of a normal matrix."""
    return torch.linalg.qr(draws.normal((number, 3, 3)))[0]


def draw_voxel_size_mm(draws: Draws, in_plane_mm: Range, slice_ratio: float, longest_mm: float) -> Tensor:
    """Draw voxel sizes, (B, 3): half isotropic, the others longer along z (half of them), x or y (a quarter each).

    Args:
        draws: source of randomness for a batch of B.
        in_plane_mm: range of the voxel size along the two equal axes.
        slice_ratio: largest ratio of the third axis to the other two.
        longest_mm: largest voxel size along the third axis.

    Returns:
        mm, (B, 3).
    """
    in_plane = draws.uniform(*in_plane_mm)
    largest_ratio = (longest_mm / in_plane).clamp(1.0, slice_ratio)
    ratio = 1.0 + (largest_ratio - 1.0) * draws.uniform(0.0, 1.0)
    ratio = torch.where(draws.uniform(0.0, 1.0) < 0.5, 1.0, ratio)
    quarter = draws.uniform(0.0, 4.0)[:, None]
    is_long = torch.cat([quarter < 1, (quarter >= 1) & (quarter < 2), quarter >= 2], dim=1)
    return in_plane[:, None] * torch.where(is_long, ratio[:, None], 1.0)


def draw_b0_direction(draws: Draws, tilt_deg: float) -> Tensor:
    """Draw unit vectors within ``tilt_deg`` of the third axis, to all sides, (B, 3)."""
    tilt = torch.deg2rad(draws.uniform(0.0, tilt_deg))
    azimuth = draws.uniform(0.0, 2 * torch.pi)
    return torch.stack([tilt.sin() * azimuth.cos(), tilt.sin() * azimuth.sin(), tilt.cos()], dim=1)


def draw_affine(draws: Draws, *, rotation_deg: float, scaling: float, shear: float) -> Tensor:
    """Draw matrices near identity, mirrored along the first axis or not, (B, 3, 3).

    Args:
        draws: source of randomness for a batch of B.
        rotation_deg: largest component of the rotation vector.
        scaling: largest relative change of the size of what is mapped.
        shear: largest slope.

    Returns:
        M = R (I + shear) diag(mirror / size), with R the exponential of the rotation vector's cross product.
    """
    identity = torch.eye(3, device=draws.device).expand(draws.batch, 3, 3)
    turn = torch.deg2rad(draws.uniform(-rotation_deg, rotation_deg, (1, 3))).expand(-1, 3, -1)
    rotation = torch.linalg.matrix_exp(torch.linalg.cross(identity, turn))
    slopes = draws.uniform(-shear, shear, (3, 3)).triu(1)
    size = 1.0 + draws.uniform(-scaling, scaling, (3,))
    mirror = torch.where(draws.uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    size[:, 0] *= mirror
    return rotation @ (identity + slopes) / size[:, None, :]


def draw_in_ball(draws: Draws) -> Tensor:
    """Draw points uniformly within the unit ball, (B, 3)."""
    direction = torch.nn.functional.normalize(draws.normal((3,)), dim=1)
    return direction * draws.uniform(0.0, 1.0)[:, None] ** (1 / 3)
