"""Seeded random numbers, one row for each volume of a batch, and smooth Gaussian noise made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


def _low_pass_transfer(shape: tuple[int, ...], voxel_size_mm: Tensor, sigma: Tensor) -> Tensor:
    """Transfer function of a Gaussian of SD ``sigma``, (B, 1, X, Y, Z // 2 + 1)."""
    relative = voxel_size_mm / voxel_size_mm.log().mean(dim=1, keepdim=True).exp()
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
    draws: Draws, channels: int, shape: tuple[int, int, int], voxel_size_mm: Tensor, *, sigma: Tensor
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
