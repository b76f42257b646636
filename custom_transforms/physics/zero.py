r"""The zero of the total susceptibility, from the sign of the sources.

D(0) = 0: the field leaves the mean of q free. What pins it is that both sources are magnitudes, so |q| <= s, above all
where s is near zero (cerebrospinal fluid). The offset c that violates this least,

    minimise  sum  max(w_para (q + c) - R, 0)^2 + max(-w_dia (q + c) - R, 0)^2      over c,

is a convex problem in one number, solved here by damped Newton steps on 3-voxel averages, which are less noisy. Those
that reach beyond the mask are left out: background removal errs most at the rim.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from .source_model import weight_columns


def zero_mean(q_ppm: Tensor, mask: Tensor) -> Tensor:
    """Shift q, (B, 1, X, Y, Z), to zero mean in the mask, (B, 1, X, Y, Z) of 0 and 1, and set it to 0 outside."""
    volume = mask.sum(dim=(-3, -2, -1), keepdim=True).clamp(min=1.0)
    return mask * (q_ppm - (mask * q_ppm).sum(dim=(-3, -2, -1), keepdim=True) / volume)


def feasible_offset(
    q_ppm: Tensor,
    r2prime_ppm: Tensor,
    mask: Tensor,
    relaxivity_weights: Tensor | None = None,
    fluid_ppm: float = math.inf,
) -> Tensor:
    """Find the offset of q that makes both sources as little negative as possible.

    Args:
        q_ppm: (B, 1, X, Y, Z) total susceptibility, known up to a constant.
        r2prime_ppm: (B, 1, X, Y, Z) R2'/Dr.
        mask: (B, 1, X, Y, Z), 1 in the brain.
        relaxivity_weights: (B, 2), or None for a single Dr.
        fluid_ppm: voxels count exp(-(R / fluid)^2): where R2' is strong and its relaxivity wrong, they would move the
            zero. Infinity counts all alike.

    Returns:
        c in ppm, (B, 1, 1, 1, 1), to be added to q; no gradient flows through it.
    """
    q_ppm, r2prime_ppm, mask = q_ppm.detach(), r2prime_ppm.detach(), mask.detach()
    w_para, w_dia = weight_columns(q_ppm, relaxivity_weights)
    inside = avg_pool3d(mask, 3, ceil_mode=True)
    share = inside.clamp(min=1e-3)
    q = avg_pool3d(mask * q_ppm, 3, ceil_mode=True) / share
    r2prime = avg_pool3d(mask * r2prime_ppm, 3, ceil_mode=True) / share
    whole = inside * (inside > 0.999)  # blocks at the rim, where a local field is known least, do not count
    inside = torch.where(whole.sum(dim=(1, 2, 3, 4), keepdim=True) > 0, whole, inside)
    inside = inside * torch.exp(-((r2prime / fluid_ppm) ** 2))
    # a thousandth of the voxels: c stays where it is when nothing is violated
    damping = 1e-3 * inside.sum(dim=(1, 2, 3, 4), keepdim=True) + 1e-6
    c = torch.zeros_like(damping)
    for _ in range(10):
        too_high = (w_para * (q + c) - r2prime).clamp(min=0.0)
        too_low = (-w_dia * (q + c) - r2prime).clamp(min=0.0)
        slope = inside * (w_para * too_high - w_dia * too_low)
        curvature = inside * (w_para * w_para * (too_high > 0) + w_dia * w_dia * (too_low > 0))
        c = c - slope.sum(dim=(1, 2, 3, 4), keepdim=True) / (curvature.sum(dim=(1, 2, 3, 4), keepdim=True) + damping)
    return c


def nearest_feasible(q_ppm: Tensor, r2prime_ppm: Tensor, relaxivity_weights: Tensor | None = None) -> Tensor:
    """Raise R2'/Dr to the least that allows two non-negative sources: max(R, w_para q, -w_dia q).

    Args:
        q_ppm: (B, 1, X, Y, Z) total susceptibility, which is kept.
        r2prime_ppm: (B, 1, X, Y, Z) R2'/Dr.
        relaxivity_weights: (B, 2), or None for a single Dr.

    Returns:
        R2'/Dr in ppm, (B, 1, X, Y, Z).
    """
    w_para, w_dia = weight_columns(q_ppm, relaxivity_weights)
    return torch.maximum(r2prime_ppm, torch.maximum(w_para * q_ppm, -w_dia * q_ppm))
