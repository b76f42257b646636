r"""The total field from unwrapped phases by a weighted line, and how far the echoes agree on it.

    f = sign sum_j w_j t_j phi_j / sum_j w_j t_j^2 / (2 pi gamma_bar B0),    w_j = m_j^2, the inverse variance of phi_j
    quality = exp(-e^2 / (2 s^2)) M^2 / (M^2 + (c M_median)^2)

e^2 is the weighted mean square of what the line leaves of the phases, per degree of freedom, s = 0.3 rad; M is the root
of the sum of squares of the magnitudes, M_median its median in the mask, c = 0.1. A voxel of good signal whose echoes
lie on the line has quality 1; the median over five echoes of pure noise is below 0.01.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.keys import (
    B0_TESLA,
    ECHO_TIMES_S,
    FIELD_QUALITY,
    MAGNITUDE,
    MASK,
    TOTAL_FIELD,
    UNWRAPPED_PHASE,
    VENDOR,
)
from custom_transforms.physics import phase_rad_to_field_ppm
from custom_transforms.preprocessing.phase import phase_sign
from custom_transforms.preprocessing.unwrapping import mask_box
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.transforms.base import to_float_tensor, with_meta_of

_RESIDUAL_RAD = 0.3  # s
_FAINT = 0.1  # c


def _line(t: Tensor, phase: Tensor, weight: Tensor, *, intercept: bool) -> tuple[Tensor, Tensor]:
    """Fit phase = a + slope t over the first axis, a = 0 unless asked for; give the slope and the residual."""
    tiny = torch.finfo(phase.dtype).tiny
    total = weight.sum(0, keepdim=True).clamp(min=tiny)
    mean_t = (weight * t).sum(0, keepdim=True) / total if intercept else torch.zeros_like(total)
    mean_phase = (weight * phase).sum(0, keepdim=True) / total if intercept else torch.zeros_like(total)
    centred = t - mean_t
    slope = (weight * centred * phase).sum(0, keepdim=True) / (weight * centred**2).sum(0, keepdim=True).clamp(min=tiny)
    return slope, phase - mean_phase - slope * centred


def _quality(residual: Tensor, weight: Tensor, signal: Tensor, inside: Tensor, parameters: int) -> Tensor:
    """Give the quality of the head of the module; without a degree of freedom the magnitude alone decides."""
    freedom = len(residual) - parameters
    spread = (weight * residual.square()).sum(0, keepdim=True) / weight.sum(0, keepdim=True).clamp(min=1e-30)
    spread = spread * (len(residual) / freedom) if freedom > 0 else torch.zeros_like(spread)
    power = signal.square()
    faint = (_FAINT * signal[inside].median()).square()
    bright = torch.where(power > 0, power / (power + faint).clamp(min=torch.finfo(power.dtype).tiny), 0.0)
    return (-spread / (2 * _RESIDUAL_RAD**2)).exp() * bright


def fit_total_field(
    unwrapped_phase: Tensor,
    magnitude: Tensor,
    echo_times_s: Sequence[float],
    *,
    b0_tesla: float,
    mask: Tensor | None = None,
    sign: int = 1,
    intercept: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fit the total field to unwrapped phases; one echo is enough.

    Args:
        unwrapped_phase: (E, X, Y, Z) in rad.
        magnitude: (E, X, Y, Z), any unit.
        echo_times_s: the E echo times in s.
        b0_tesla: main field in T.
        mask: (1, X, Y, Z), above 0.5 inside; both results are 0 outside. None is everywhere.
        sign: +1 where the phase grows with the field, else -1.
        intercept: let the line miss the origin, for phases whose offset at t = 0 was not removed; needs two echoes.

    Returns:
        The field in ppm of B0 and the quality, 0 to 1, both (1, X, Y, Z).

    Raises:
        ValueError: numbers of echoes that differ, one echo with an intercept, an empty mask, or a wrong sign.
    """
    count = len(echo_times_s)
    if not len(unwrapped_phase) == len(magnitude) == count or count <= int(intercept):
        counts = f"{len(unwrapped_phase)}, {len(magnitude)} and {count}"
        raise ValueError(
            f"phases, magnitudes and echo times must be of one number, two or more with an intercept, got {counts}"
        )
    mask = torch.ones_like(magnitude[:1]) if mask is None else mask
    box = mask_box(mask)  # the rest of the volume would take memory only
    magnitude, inside = magnitude[box], mask[box] > 0.5
    t = torch.tensor(echo_times_s, dtype=magnitude.dtype, device=magnitude.device).reshape(-1, 1, 1, 1)
    signal = combine_echoes(magnitude)
    weight = (magnitude / torch.where(signal > 0, signal, 1.0)).square()
    slope, residual = _line(t, unwrapped_phase[box], weight, intercept=intercept)
    field, quality = torch.zeros_like(mask, dtype=slope.dtype), torch.zeros_like(mask, dtype=slope.dtype)
    field[box] = torch.where(inside, phase_rad_to_field_ppm(slope, 1.0, b0_tesla, sign=sign), 0.0)
    quality[box] = torch.where(inside, _quality(residual, weight, signal, inside, 1 + int(intercept)), 0.0)
    return field, quality


class FitTotalFieldd(Transform):
    """Write ``total_field`` and ``field_quality`` from ``unwrapped_phase`` and ``magnitude``.

    The sign is that of the vendor's entry in :data:`custom_transforms.preprocessing.phase.PHASE_SIGN`; another one is
    the business of :class:`custom_transforms.preprocessing.phase_sign.CheckPhaseSignd`.

    Args:
        intercept: see :func:`fit_total_field`; a single echo is fitted without one.
    """

    def __init__(self, *, intercept: bool = False) -> None:
        self.intercept = intercept

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fit the field with ``echo_times_s`` and ``b0_tesla``, in ``mask`` and by ``vendor`` where they are there."""
        phase = to_float_tensor(data[UNWRAPPED_PHASE])
        mask = None if data.get(MASK) is None else to_float_tensor(data[MASK]).as_subclass(Tensor)
        field, quality = fit_total_field(
            phase.as_subclass(Tensor),
            to_float_tensor(data[MAGNITUDE]).as_subclass(Tensor),
            data[ECHO_TIMES_S],
            b0_tesla=data[B0_TESLA],
            mask=mask,
            sign=phase_sign(data.get(VENDOR)),
            intercept=self.intercept and len(phase) > 1,
        )
        return {**data, TOTAL_FIELD: with_meta_of(field, phase), FIELD_QUALITY: with_meta_of(quality, phase)}
