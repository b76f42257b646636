r"""Loss of standard deviations: quantile regression of the error's magnitude.

    loss = mean_k mean_m max(p_k u, (p_k - 1) u),    u = log |chi - label| - log(z_k sd)

over the intervals k of :data:`custom_transforms.networks.uncertainty.INTERVALS`, chi +- z_k sd with probability p_k.
Its derivative by log sd is the share of voxels that the interval holds less the share p_k that it should, so the
minimum is where the intervals are calibrated, whatever the distribution of the errors. Logarithms make it a matter of
ratios: a lesion of 3 ppm counts no more than a voxel of fluid, and no single error can pull the rest along, as it does
in the likelihood of a normal distribution.

References:
    Koenker 1978, doi:10.2307/1913643 (quantile regression).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from custom_transforms.networks.uncertainty import FLOOR_PPM, INTERVALS


class IntervalLoss(nn.Module):
    """Quantile loss of the intervals around both maps; for :class:`custom_transforms.networks.UncertainSeparation`."""

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Compare the intervals with the truth.

        Args:
            pred: (B, 4, X, Y, Z) in ppm: chi_para, chi_dia and their standard deviations, zero outside the mask.
            label: (B, 2, X, Y, Z) in ppm.

        Returns:
            Scalar loss, mean over both maps and the voxels inside the mask.

        Raises:
            ValueError: there is no standard deviation in ``pred``.
        """
        if pred.shape[1] != 4:
            raise ValueError(f"expected chi_para, chi_dia and their SDs, got {pred.shape[1]} channels; add the head")
        chi, sd = pred.split(2, dim=1)
        inside = sd > 0
        # an error of exactly zero has no logarithm; one far below the smallest SD is inside every interval
        error = (chi - label)[inside].abs().clamp(min=FLOOR_PPM / 100)
        ratio = error.log() - sd[inside].log()
        terms = []
        for share, factor in INTERVALS.items():
            u = ratio - math.log(factor)
            terms.append(torch.maximum(share * u, (share - 1) * u).mean())
        return torch.stack(terms).mean()
