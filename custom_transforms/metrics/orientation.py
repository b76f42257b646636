"""Consistency over head orientations: susceptibility is the tissue's, so that no angle to B0 may change it."""

from __future__ import annotations

from torch import Tensor

from custom_transforms.metrics.error import masked_mean


def orientation_sd(pred: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation over the orientations, voxel by voxel (N - 1), and its mean where all masks agree.

    Args:
        pred: (N, C, X, Y, Z) in any unit: one head, on one grid that turns with it, in N orientations.
        mask: (N, 1, X, Y, Z).

    Returns:
        (1, C) in the same unit, float64.

    Raises:
        ValueError: there are fewer than two orientations.
    """
    if len(pred) < 2:
        raise ValueError(f"expected at least two orientations of one head along the first axis, got {len(pred)}")
    return masked_mean(pred.double().std(dim=0, keepdim=True), (mask > 0.5).all(dim=0, keepdim=True))
