r"""Are standard deviations what they say: do their intervals hold the truth, and are they large where the error is?

coverage = 100 share of the voxels with |chi - truth| <= z sd,    over the mask
"""

from __future__ import annotations

import torch
from torch import Tensor

from custom_transforms.metrics.error import masked_mean


def coverage_percent(pred: Tensor, sd: Tensor, label: Tensor, mask: Tensor, *, factor: float = 1.0) -> Tensor:
    """Share of the voxels in the mask whose truth lies within pred +- factor x sd, for every volume and channel.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        sd: (B, C, X, Y, Z) standard deviation in the same unit.
        label: (B, C, X, Y, Z) truth in the same unit.
        mask: (B, 1, X, Y, Z).
        factor: half the width of the interval in standard deviations; 1 should give 68.27 %, 1.96 should give 95 %.

    Returns:
        (B, C) in percent, float64.
    """
    held = (pred.double() - label.double()).abs() <= factor * sd.double()
    return 100 * masked_mean(held, mask)


def rank_correlation(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Spearman's rank correlation over the voxels of the mask, for every volume and channel.

    Between a standard deviation and the magnitude of the error it says whether one is large where the other is; 1 is
    out of reach, as an error of a given standard deviation is random.

    Args:
        first: (B, C, X, Y, Z) in any unit.
        second: (B, C, X, Y, Z) in any unit.
        mask: (B, 1, X, Y, Z).

    Returns:
        (B, C), float64; ties are ranked in their order.
    """
    result = torch.empty(first.shape[:2], dtype=torch.float64, device=first.device)
    for b in range(first.shape[0]):
        inside = mask[b, 0] > 0.5
        for c in range(first.shape[1]):
            ranks = [values[b, c][inside].argsort().argsort().double() for values in (first, second)]
            result[b, c] = torch.corrcoef(torch.stack(ranks))[0, 1]
    return result


def reliability(pred: Tensor, sd: Tensor, label: Tensor, mask: Tensor, *, bins: int = 10) -> Tensor:
    """Compare what is said with what is found: voxels in bins of equal number, from the smallest sd to the largest.

    Args:
        pred: (B, C, X, Y, Z) in any unit.
        sd: (B, C, X, Y, Z) in the same unit.
        label: (B, C, X, Y, Z) in the same unit.
        mask: (B, 1, X, Y, Z).
        bins: how many.

    Returns:
        (bins, C, 2) in the same unit, float64: root mean square of sd and of the error in each bin, over all volumes.
    """
    inside = (mask > 0.5).flatten()
    squares = torch.stack([sd.double().square(), (pred.double() - label.double()).square()])
    squares = squares.movedim(2, 1).flatten(2)[..., inside]  # (2, C, voxels)
    order = squares[0].argsort(dim=1)
    said, found = (values.gather(1, order).tensor_split(bins, dim=1) for values in squares)
    pairs = [torch.stack([s.mean(dim=1), f.mean(dim=1)], dim=1).sqrt() for s, f in zip(said, found, strict=True)]
    return torch.stack(pairs)
