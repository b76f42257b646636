"""Gaussian smoothing, smooth random maps and distances on voxel grids, in plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kernel(sigma_voxels: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Samples of a Gaussian out to three standard deviations, with sum one."""
    radius = max(1, math.ceil(3 * sigma_voxels))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    kernel = torch.exp(-0.5 * (steps / sigma_voxels) ** 2)
    return kernel / kernel.sum()


def gaussian_smooth(volume: Tensor, *, sigma_voxels: float) -> Tensor:
    """Smooth with a Gaussian of the same width on every axis; values continue past the edges.

    Args:
        volume: Any maps, (C, X, Y, Z).
        sigma_voxels: Standard deviation of the Gaussian, voxels.

    Returns:
        The smoothed maps, (C, X, Y, Z).
    """
    kernel = gaussian_kernel(sigma_voxels, device=volume.device)
    radius = len(kernel) // 2
    padded = F.pad(volume.unsqueeze(0), (radius,) * 6, mode="replicate").squeeze(0)
    return _convolve_valid(padded, kernel)


def smooth_noise(
    shape: tuple[int, int, int], *, length_voxels: float, channels: int, generator: torch.Generator
) -> Tensor:
    """Gaussian random maps with mean 0, SD 1 and the correlation exp(-(d / length)^2) at distance d.

    White noise is smoothed with a Gaussian of SD length / 2, on a grid just fine enough for it, and interpolated.

    Args:
        shape: Spatial shape (X, Y, Z).
        length_voxels: Distance at which the correlation has fallen to 1/e, voxels.
        channels: Number of independent maps C.
        generator: Source of the randomness, on the CPU.

    Returns:
        The maps, (C, X, Y, Z), float32, on the CPU.
    """
    sigma = length_voxels / 2
    spacing = max(1.0, sigma / 2)
    kernel = gaussian_kernel(sigma / spacing)
    coarse = [math.ceil((n - 1) / spacing) + 1 for n in shape]
    white = torch.randn(channels, *(n + len(kernel) - 1 for n in coarse), generator=generator)
    noise = _convolve_valid(white, kernel) / (kernel**2).sum() ** 1.5
    if spacing == 1.0:
        return noise
    return F.interpolate(noise.unsqueeze(0), size=shape, mode="trilinear", align_corners=True).squeeze(0)


def distance_voxels(mask: Tensor, *, limit_voxels: int) -> Tensor:
    """Exact Euclidean distance to the nearest voxel of a mask, as far as a limit.

    The squared distance is a minimum over each axis in turn: d2(x) = min_k [d2(x + k) + k^2].

    Args:
        mask: The object, (X, Y, Z), bool.
        limit_voxels: Larger distances are returned as this one.

    Returns:
        Distance in voxels, (X, Y, Z), float32; 0 inside the mask.
    """
    squared = torch.where(mask, 0.0, float(limit_voxels**2))
    for axis in range(3):
        best = squared.clone()
        size = mask.shape[axis]
        for step in range(1, min(limit_voxels, size - 1) + 1):
            for here, there in ((0, step), (step, 0)):
                target = best.narrow(axis, here, size - step)
                torch.minimum(target, squared.narrow(axis, there, size - step) + step**2, out=target)
        squared = best
    return squared.sqrt()


def _convolve_valid(volume: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (C, X, Y, Z) along every axis, keeping only where the kernel fits."""
    for axis in range(1, 4):
        size = volume.shape[axis] - len(kernel) + 1
        result = torch.zeros_like(volume.narrow(axis, 0, size))
        for step, weight in enumerate(kernel.tolist()):
            result.add_(volume.narrow(axis, step, size), alpha=weight)
        volume = result
    return volume
