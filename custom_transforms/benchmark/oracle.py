r"""How well two sources can be had from R2' as it was measured, if everything else is known: a bound to compare with.

    s = G_sigma (m R) / G_sigma m,    chi_para = (s + w_dia q) / (w_para + w_dia) >= 0,    chi_dia likewise

with the true q = chi_para - chi_dia, R = R2'/Dr with its noise, m the mask, and the Gaussian G_sigma that is best
against the truth. What a method has beyond that it owes to a better denoising than any single Gaussian's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from custom_transforms.metrics import nrmse_percent
from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.physics import combine_sources, separate_sources

SIGMAS_VOXELS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Grid of standard deviations; 0 leaves R2' as it is."""


class Oracle(NamedTuple):
    """What the oracle gives.

    Attributes:
        chi: chi_para and chi_dia in ppm, (B, 2, X, Y, Z), zero outside the mask.
        sigma_voxels: the best standard deviation for each volume, (B,).
    """

    chi: Tensor
    sigma_voxels: Tensor


def smooth_within(values: Tensor, mask: Tensor, *, sigma_voxels: float) -> Tensor:
    """Smooth with a Gaussian that sees the mask alone: a normalised convolution.

    Args:
        values: (B, 1, X, Y, Z) in any unit.
        mask: (B, 1, X, Y, Z).
        sigma_voxels: standard deviation along every axis; 0 leaves the values as they are.

    Returns:
        (B, 1, X, Y, Z) in the same unit, zero outside the mask.

    References:
        Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081.
    """
    m = (mask > 0.5).to(values)
    if sigma_voxels == 0:
        return m * values
    above, below = (gaussian_smooth(x[:, 0], sigma_voxels=sigma_voxels)[:, None] for x in (m * values, m))
    return torch.where(m > 0, above / below, 0.0)


def separate_with_oracle(
    r2prime_ppm: Tensor,
    truth: Tensor,
    mask: Tensor,
    relaxivity_weights: Tensor | None = None,
    *,
    sigmas_voxels: Sequence[float] = SIGMAS_VOXELS,
) -> Oracle:
    """Separate the sources with the true chi_total and the Gaussian of least mean NRMSE of both, volume by volume.

    Args:
        r2prime_ppm: (B, 1, X, Y, Z), R2'/Dr as measured, ppm.
        truth: (B, 2, X, Y, Z), chi_para and chi_dia in ppm.
        mask: (B, 1, X, Y, Z).
        relaxivity_weights: (B, 2), or None for a single Dr.
        sigmas_voxels: grid of standard deviations.

    Raises:
        ValueError: the grid is empty or has a negative value.
    """
    if not sigmas_voxels or min(sigmas_voxels) < 0:
        raise ValueError(
            f"expected one sigma or more, none of them negative, got {tuple(sigmas_voxels)}; 0 to 2 is usual"
        )
    q, _ = combine_sources(truth, relaxivity_weights)
    best = torch.full((len(truth),), torch.inf, dtype=torch.float64, device=truth.device)
    chi, sigmas = torch.zeros_like(truth), torch.zeros_like(best)
    for sigma in sigmas_voxels:
        s = smooth_within(r2prime_ppm, mask, sigma_voxels=sigma)
        found = (mask > 0.5) * separate_sources(q, s, relaxivity_weights).clamp(min=0.0)
        error = nrmse_percent(found, truth, mask).mean(dim=1)
        better = error < best
        best, sigmas = torch.where(better, error, best), torch.where(better, sigma, sigmas)
        chi = torch.where(better[:, None, None, None, None], found, chi)
    return Oracle(chi, sigmas)
