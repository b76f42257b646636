r"""How well a map keeps the structure of the truth: structural similarity and high-frequency error.

    similarity = (2 m_a m_b + c1) (2 cov + c2) / ((m_a^2 + m_b^2 + c1) (v_a + v_b + c2)),    c_i = (K_i L)^2
    HFEN = 100 |LoG a - LoG b| / |LoG b|  in percent,    LoG the Laplacian of Gaussian

with means m, variances v and covariance over a cubic window, and the average of the similarity over the mask
(Wang et al. 2004, doi:10.1109/TIP.2003.819861).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from custom_transforms.metrics.error import masked_mean

SSIM_WINDOW = 7  # voxels
XSIM_WINDOW = 5  # voxels
SSIM_PEAK = 255.0
LOG_CUTOFF = 5.0  # half width of the LoG's kernel, standard deviations


def ssim(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity of two maps scaled together from their least to their greatest value, as for chi-sepnet.

    Both maps are zero outside of the mask, which counts for the least value and in the windows; windows of 7^3 voxels,
    mirrored at the edges of the image; variances over N - 1; K = (0.01, 0.03).

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        truth: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, C), at most 1, float64.

    References:
        Kim et al. 2025, doi:10.1002/hbm.70136 (chi-sepnet).
    """
    m = mask > 0.5
    pair = torch.stack([torch.where(m, x.double(), 0.0) for x in (pred, truth)])
    pair = torch.where(m, pair - pair.amin(dim=(0, 3, 4, 5), keepdim=True), 0.0)
    a, b = SSIM_PEAK * pair / pair.amax(dim=(0, 3, 4, 5), keepdim=True)
    windows = [_filter_matrix(n, _box(SSIM_WINDOW, like=a), mirror=True) for n in a.shape[2:]]
    count = SSIM_WINDOW**3
    c1, c2 = (0.01 * SSIM_PEAK) ** 2, (0.03 * SSIM_PEAK) ** 2
    similarity = _similarity(a, b, lambda x: _filter(x, windows), c1=c1, c2=c2, correction=count / (count - 1))
    return masked_mean(similarity, mask)


def xsim(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity with the constants made for susceptibility: L = 1 ppm, K = (0.01, 0.001).

    Windows of 5^3 voxels, cut off at the edges of the image; they do reach out of the mask, like those of QSM-CI.

    Args:
        pred: (B, C, X, Y, Z) in ppm.
        truth: (B, C, X, Y, Z) in ppm.
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, C), at most 1, float64.

    References:
        Milovic et al. 2025, doi:10.1002/mrm.30271.
    """
    a, b = pred.double(), truth.double()
    windows = [_filter_matrix(n, _box(XSIM_WINDOW, like=a), mirror=False) for n in a.shape[2:]]
    return masked_mean(_similarity(a, b, lambda x: _filter(x, windows), c1=1e-4, c2=1e-6), mask)


def hfen_percent(pred: Tensor, truth: Tensor, mask: Tensor, *, sigma_voxels: float = 1.5) -> Tensor:
    """High-frequency error norm in the mask; the filter sees the whole image, mirrored at its edges.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        truth: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).
        sigma_voxels: standard deviation of the Gaussian.

    Returns:
        (B, C) in percent, float64.

    References:
        Langkammer et al. 2018, doi:10.1002/mrm.26830.
    """
    truth = truth.double()
    error, reference = (_laplacian_of_gaussian(x, sigma_voxels) for x in (pred.double() - truth, truth))
    return 100 * (masked_mean(error**2, mask) / masked_mean(reference**2, mask)).sqrt()


def _similarity(
    a: Tensor, b: Tensor, average: Callable[[Tensor], Tensor], *, c1: float, c2: float, correction: float = 1.0
) -> Tensor:
    mean_a, mean_b = average(a), average(b)
    variances = average(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = average(a * b) - mean_a * mean_b
    structure = (2 * correction * covariance + c2) / (correction * variances + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * structure


def _laplacian_of_gaussian(volume: Tensor, sigma: float) -> Tensor:
    radius = int(LOG_CUTOFF * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=volume.dtype, device=volume.device)
    gaussian = torch.exp(-0.5 * (x / sigma) ** 2)
    gaussian = gaussian / gaussian.sum()
    second = gaussian * (x**2 / sigma**2 - 1) / sigma**2
    smooth, curve = ([_filter_matrix(n, k, mirror=True) for n in volume.shape[2:]] for k in (gaussian, second))
    along = [[curve[j] if j == axis else smooth[j] for j in range(3)] for axis in range(3)]
    return _filter(volume, along[0]) + _filter(volume, along[1]) + _filter(volume, along[2])


def _box(width: int, *, like: Tensor) -> Tensor:
    return torch.full((width,), 1 / width, dtype=like.dtype, device=like.device)


def _filter_matrix(size: int, kernel: Tensor, *, mirror: bool) -> Tensor:
    """Matrix (size, size) of a symmetric filter on one axis, which mirrors the image at its edges or averages less."""
    radius = len(kernel) // 2
    steps = torch.arange(-radius, radius + 1, device=kernel.device)
    index = torch.arange(size, device=kernel.device)[:, None] + steps
    if mirror:  # c b a | a b c | c b a
        weights = kernel.expand_as(index)
        index = index % (2 * size)
        index = torch.where(index < size, index, 2 * size - 1 - index)
    else:
        weights = kernel * ((index >= 0) & (index < size))
        weights = weights / weights.sum(dim=1, keepdim=True)
        index = index.clamp(0, size - 1)
    return torch.zeros(size, size, dtype=kernel.dtype, device=kernel.device).scatter_add(1, index, weights)


def _filter(volume: Tensor, matrices: list[Tensor]) -> Tensor:
    return torch.einsum("bcxyz,ix,jy,kz->bcijk", volume, *matrices)
