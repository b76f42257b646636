r"""What is read off the maps in regions: means, linearity over the deep grey nuclei, leakage, recovery of lesions.

All fits are ordinary least squares with an intercept; the truth is x, the reconstruction y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_transforms.metrics.error import demeaned, masked_mean


class LineFit(NamedTuple):
    """The line y = slope x + intercept and the share of y's variance that it explains."""

    slope: Tensor
    intercept: Tensor
    r_squared: Tensor


def fit_line(x: Tensor, y: Tensor) -> LineFit:
    """Fit a line to points; those where x is NaN are left out.

    Args:
        x: (..., N) in any unit.
        y: (..., N) in any unit.

    Returns:
        Slope, intercept and R2, (...) each, float64; NaN if x takes fewer than two values.
    """
    x, y = x.double(), y.double()
    used = ~x.isnan()
    count = used.sum(dim=-1)
    mean_x, mean_y = (torch.where(used, v, 0.0).sum(dim=-1) / count for v in (x, y))
    dx, dy = (torch.where(used, v - m[..., None], 0.0) for v, m in ((x, mean_x), (y, mean_y)))
    xx, xy, yy = ((u * v).sum(dim=-1) for u, v in ((dx, dx), (dx, dy), (dy, dy)))
    slope = xy / xx
    return LineFit(slope, mean_y - slope * mean_x, xy**2 / (xx * yy))


def region_means(values: Tensor, regions: Tensor, *, labels: Sequence[int]) -> Tensor:
    """Mean of every region.

    Args:
        values: (B, C, X, Y, Z) in any unit.
        regions: (B, 1, X, Y, Z), integer labels.
        labels: the R labels to look at.

    Returns:
        (B, C, R) in the same unit, float64; NaN where a region is absent.
    """
    return torch.stack([masked_mean(values, regions == label) for label in labels], dim=-1)


def deep_grey_linearity(pred: Tensor, truth: Tensor, regions: Tensor, *, labels: Sequence[int]) -> Tensor:
    """Deviation from proportionality, |1 - slope| of the means of the deep grey nuclei.

    Args:
        pred: (B, C, X, Y, Z) in ppm.
        truth: (B, C, X, Y, Z) in ppm.
        regions: (B, 1, X, Y, Z), integer labels.
        labels: those of the nuclei.

    Returns:
        (B, C), dimensionless, float64; NaN where there are fewer than two of the nuclei.
    """
    x, y = (region_means(values, regions, labels=labels) for values in (truth, pred))
    return (1 - fit_line(x, y).slope).abs()


def leakage(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """How much of the other source a map takes up: l in  pred_i = a truth_i + l truth_j + c  over the mask, j != i.

    Args:
        pred: (B, 2, X, Y, Z) in ppm.
        truth: (B, 2, X, Y, Z) in ppm.
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, 2), dimensionless, float64: of chi_dia in chi_para, and of chi_para in chi_dia.

    Raises:
        ValueError: there are not two sources.
    """
    if pred.shape[1] != 2 or truth.shape[1] != 2:
        raise ValueError(
            f"leakage is between two sources, got {pred.shape[1]} and {truth.shape[1]}; give (B, 2, X, Y, Z)"
        )
    pred, same = demeaned(pred, mask), demeaned(truth, mask)
    other = same.flip(1)
    ss, oo, so, ps, po = (
        masked_mean(u * v, mask) for u, v in ((same, same), (other, other), (same, other), (pred, same), (pred, other))
    )
    return (po * ss - ps * so) / (ss * oo - so**2)


def connected_components(mask: Tensor) -> Tensor:
    """Label the objects of a mask, voxels that share a face, an edge or a corner being one object.

    Args:
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, 1, X, Y, Z), int64: 0 outside, and inside a number that no other object of the batch has.
    """
    m = mask > 0.5
    labels = torch.arange(1, m.numel() + 1, device=m.device).view(m.shape) * m
    while True:
        # Double precision, which counts voxels exactly: max_pool3d takes no integers
        grown = F.max_pool3d(labels.double(), kernel_size=3, stride=1, padding=1).long() * m
        # A label is the place of a voxel, plus one: go on to the label found there
        grown = torch.where(m, grown.flatten()[(grown - 1).clamp(min=0)], 0)
        if torch.equal(grown, labels):
            return labels
        labels = grown


def lesion_means(values: Tensor, lesions: Tensor) -> Tensor:
    """Mean of every lesion of a batch, a lesion being a connected object of the mask.

    Args:
        values: (B, C, X, Y, Z) in any unit.
        lesions: (B, 1, X, Y, Z), mask.

    Returns:
        (L, C) in the same unit, float64; the order of the L lesions follows from the mask alone.
    """
    labels = connected_components(lesions)[:, 0]
    inside = labels > 0
    found, index = labels[inside].unique(return_inverse=True)
    sums = torch.zeros(len(found), values.shape[1], dtype=torch.float64, device=values.device)
    sums.index_add_(0, index, values.movedim(1, -1)[inside].double())
    return sums / index.bincount(minlength=len(found))[:, None]


def lesion_fit(pred: Tensor, truth: Tensor, lesions: Tensor) -> LineFit:
    """Recovery of lesions: the line through the means of all lesions of a batch.

    Args:
        pred: (B, C, X, Y, Z) in ppm.
        truth: (B, C, X, Y, Z) in ppm.
        lesions: (B, 1, X, Y, Z), mask.

    Returns:
        Slope, intercept (ppm) and R2, (C,) each; NaN for fewer than two lesions.
    """
    return fit_line(*lesion_means(torch.cat([truth, pred], dim=1), lesions).T.chunk(2))
