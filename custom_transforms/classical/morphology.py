"""What a magnitude image tells an inversion: where the noise is, and where susceptibility may jump."""

import torch
from torch import Tensor

from .differences import difference


def noise_precision(magnitude: Tensor | None, mask: Tensor) -> Tensor:
    """Give the inverse variance of field and R2', up to a constant: their noise goes as 1 / magnitude.

    Args:
        magnitude: (B, 1, X, Y, Z) in any unit, or None if there is none.
        mask: (B, 1, X, Y, Z), 0 or 1.

    Returns:
        w^2, (B, 1, X, Y, Z): (magnitude / its mean in the mask)^2, or 1 without one; 0 outside the mask.
    """
    if magnitude is None:
        return mask
    dims = (-3, -2, -1)
    mean = (mask * magnitude).sum(dim=dims, keepdim=True) / mask.sum(dim=dims, keepdim=True).clamp(min=1.0)
    return mask * (magnitude / mean.clamp(min=torch.finfo(mean.dtype).tiny)) ** 2


def smoothness(guide: Tensor | None, mask: Tensor, voxel_size_mm: Tensor, *, edge_share: float) -> list[Tensor]:
    """Say where a map shall be smooth: nowhere across the edge of the mask, nor where another image has its edges.

    Args:
        guide: (B, 1, X, Y, Z) image with the edges of the anatomy, or None if there is none.
        mask: (B, 1, X, Y, Z), 0 or 1.
        voxel_size_mm: (B, 3).
        edge_share: share of the differences that are taken for edges, the steepest of the guide.

    Returns:
        For each axis the weight of the difference of each voxel to the next, (B, 1, X, Y, Z): 1 / voxel size in 1/mm,
        or 0 on edges.

    References:
        Liu 2012, doi:10.1016/j.neuroimage.2011.08.082 (MEDI).
    """
    scales = [1 / voxel_size_mm[:, axis].reshape(-1, 1, 1, 1, 1) for axis in range(3)]
    weights = [scale * mask * torch.roll(mask, -1, dims=axis - 3) for axis, scale in enumerate(scales)]
    if guide is None or edge_share == 0:
        return weights
    slopes = [difference(guide, axis - 3).abs_().mul_(scale) for axis, scale in enumerate(scales)]
    steepest = [_quantile(torch.cat(sample), 1 - edge_share) for sample in _samples(slopes, weights)]
    bound = torch.stack(steepest).reshape(-1, 1, 1, 1, 1)
    return [weight * (slope <= bound) for weight, slope in zip(weights, slopes, strict=True)]


def _samples(slopes: list[Tensor], weights: list[Tensor]) -> list[list[Tensor]]:
    """Give, for each image of a batch, the slopes inside the mask along the three axes."""
    count = len(weights[0])
    return [[slope[i][weight[i] > 0] for slope, weight in zip(slopes, weights, strict=True)] for i in range(count)]


def _quantile(values: Tensor, share: float) -> Tensor:
    """Like torch.quantile, which takes no more than 2^24 values."""
    if not len(values):
        return values.new_zeros(())
    return values.kthvalue(max(1, round(share * len(values)))).values
