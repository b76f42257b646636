"""The region that is scored: the brain without cerebrospinal fluid and veins, as published.

References:
    Kim 2025, doi:10.48550/arXiv.2409.14030 (chi-sepnet).
"""

import torch
from torch import Tensor

from custom_transforms.phantom.structures import REGIONS

NOT_SCORED = ("cerebrospinal_fluid", "vein")


def scored_region(mask: Tensor, regions: Tensor) -> Tensor:
    """Give 1 where it is scored.

    Args:
        mask: (..., X, Y, Z), 1 in the brain.
        regions: the same shape, integer labels of :data:`custom_transforms.phantom.structures.REGIONS`.
    """
    left_out = torch.tensor([REGIONS[name] for name in NOT_SCORED], device=regions.device)
    return mask * ~torch.isin(regions, left_out)
