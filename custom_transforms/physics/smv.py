r"""Spherical mean values: the average of a map over a ball around every voxel, as a product in k-space.

    (rho * f)(x) = sum_i rho_i f(x - x_i),    sum_i rho_i = 1,    f harmonic  =>  rho * f = f

The background field is harmonic in the brain, so f - rho * f is free of it wherever the ball lies within the brain.

The ball is sampled: rho_i is the share of voxel i within it, corrected so that its second moments along the three axes
agree. Sampling alone leaves them apart, most for anisotropic voxels, and then quadratic harmonics do not keep their
value. The transform of a continuous ball, 3 (sin x - x cos x) / x^3 with x = 2 pi |k| R, is not used: cut off at the
Nyquist frequency it rings beyond its radius, out of the brain and into fields a hundred times the local one.

References:
    Schweser 2011, doi:10.1016/j.neuroimage.2010.10.070 (SHARP).
"""

import math

import torch
from torch import Tensor

_FINER = 4  # points along each axis of a voxel that tell how much of it is in the ball


def _share_inside(halves: list[int], size: list[float], radius_mm: float) -> Tensor:
    """Give the share of each voxel that is in the ball, (2 a + 1, 2 b + 1, 2 c + 1)."""
    offset = (torch.arange(_FINER, dtype=torch.float64) + 0.5) / _FINER - 0.5
    squares = [((torch.arange(-n, n + 1)[:, None] + offset) * v).square().flatten() for n, v in zip(halves, size)]
    r2 = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    inside = (r2 <= radius_mm**2).double()
    return torch.nn.functional.avg_pool3d(inside[None, None], _FINER)[0, 0]


def ball_weights(voxel_size_mm: Tensor, radius_mm: float) -> Tensor:
    """Give the weights rho of a ball, centred in the middle voxel.

    Args:
        voxel_size_mm: (3,) in mm.
        radius_mm: radius of the ball in mm, at least the largest voxel size.

    Returns:
        rho, (2 a + 1, 2 b + 1, 2 c + 1), with sum 1 and equal second moments, float64 on the CPU.

    Raises:
        ValueError: the radius is smaller than a voxel.
    """
    size = [float(v) for v in voxel_size_mm]
    if not radius_mm >= max(size):
        raise ValueError(f"radius_mm must be at least the largest voxel size, {max(size):g} mm, got {radius_mm:g}")
    halves = [math.ceil(radius_mm / v + 0.5) - 1 for v in size]
    weights = _share_inside(halves, size, radius_mm)
    weights = weights / weights.sum()
    x, y, z = [(torch.arange(-n, n + 1, dtype=torch.float64) * v).square() for n, v in zip(halves, size)]
    squares = torch.stack(torch.broadcast_tensors(x[:, None, None], y[None, :, None], z[None, None, :]))
    moments = (weights * squares).sum(dim=(1, 2, 3))
    centred = squares - moments[:, None, None, None]
    covariance = torch.einsum("iabc,jabc,abc->ij", centred, centred, weights)
    tilt = torch.linalg.solve(covariance, moments.mean() - moments)
    return weights * (1 + torch.einsum("i,iabc->abc", tilt, centred))


def smv_kernel(shape: list[int], voxel_size_mm: Tensor, radius_mm: float) -> Tensor:
    """Give the transfer function of the spherical mean value, for :func:`custom_transforms.physics.dipole.convolve`.

    Args:
        shape: grid (X, Y, Z), even or odd, periodic.
        voxel_size_mm: (3,) in mm.
        radius_mm: radius R of the ball in mm, at least the largest voxel size.

    Returns:
        rho(k), dimensionless, (1, 1, X, Y, Z // 2 + 1), real, float32 or the float64 of ``voxel_size_mm``, on its
        device.

    Raises:
        ValueError: the radius is smaller than a voxel, or the ball does not fit into the grid.
    """
    weights = ball_weights(voxel_size_mm, radius_mm)
    if any(n < w for n, w in zip(shape, weights.shape)):
        raise ValueError(
            f"a ball of {tuple(weights.shape)} voxels does not fit into the grid {tuple(shape)}; pad the grid or "
            f"choose a radius below {radius_mm:g} mm"
        )
    kernel = torch.zeros(*shape, dtype=torch.float64)
    kernel[: weights.shape[0], : weights.shape[1], : weights.shape[2]] = weights
    centred = kernel.roll([-(n // 2) for n in weights.shape], dims=(0, 1, 2))
    dtype = torch.float64 if voxel_size_mm.dtype == torch.float64 else torch.float32
    return torch.fft.rfftn(centred.to(dtype)).real.to(voxel_size_mm.device)[None, None]
