r"""What a separation leaves unexplained of the measurement.

    field - D (chi_para - chi_dia),    R2' / Dr - (w_para chi_para + w_dia chi_dia)

Of a consistent result both are noise. The second one is not zero either where a non-negative source was clamped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from custom_transforms.physics import DipoleConvolution, combine_sources


def field_residual(
    local_field_ppm: Tensor, chi_total_ppm: Tensor, mask: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor
) -> Tensor:
    """Give local field - D chi_total in the mask.

    A constant in chi_total that stands for another reference, such as fluid, has a field of its own at the rim of the
    mask: take chi_para - chi_dia where both are there.

    Args:
        local_field_ppm: (1, X, Y, Z), ppm of B0.
        chi_total_ppm: (1, X, Y, Z), ppm, zero outside the mask.
        mask: (1, X, Y, Z), 1 in the brain.
        voxel_size_mm: (3,).
        b0_direction: (3,), unit vector in voxel axes.

    Returns:
        (1, X, Y, Z) in ppm, zero outside the mask.
    """
    geometry = (voxel_size_mm.reshape(1, 3), b0_direction.reshape(1, 3))
    explained = DipoleConvolution(padding=1.0)(chi_total_ppm[None], *geometry)[0]
    return torch.where(mask > 0.5, local_field_ppm - explained, 0.0)


def rate_residual(
    r2prime_per_s: Tensor,
    chi_para_ppm: Tensor,
    chi_dia_ppm: Tensor,
    mask: Tensor,
    *,
    relaxivity_per_s_ppm: float,
    relaxivity_weights: Tensor | None = None,
) -> Tensor:
    """Give R2'/Dr - (w_para chi_para + w_dia chi_dia) in the mask.

    Args:
        r2prime_per_s: (1, X, Y, Z), 1/s.
        chi_para_ppm: (1, X, Y, Z), ppm.
        chi_dia_ppm: the same, a magnitude.
        mask: (1, X, Y, Z), 1 in the brain.
        relaxivity_per_s_ppm: Dr by which R2' is divided.
        relaxivity_weights: (2,), both relaxivities over Dr; 1 and 1 if None.

    Returns:
        (1, X, Y, Z) in ppm, zero outside the mask.
    """
    chi = torch.cat([chi_para_ppm, chi_dia_ppm])[None]
    _, rate = combine_sources(chi, None if relaxivity_weights is None else relaxivity_weights.reshape(1, 2))
    return torch.where(mask > 0.5, r2prime_per_s / relaxivity_per_s_ppm - rate[0], 0.0)
