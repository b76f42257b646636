r"""Relaxation rates of raw echoes: R2* of the gradient echoes, R2 of the spin echoes, brought to one grid.

ARLO takes the integral of the decay over two echo spacings d by Simpson's rule, I_j = d/3 (s_j + 4 s_j+1 + s_j+2),
which for a mono-exponential is (s_j - s_j+2) / R, and fits R to it by least squares:

    R = (d/3 sum delta_j^2 + sum I_j delta_j) / (sum I_j^2 + d/3 sum I_j delta_j),    delta_j = s_j - s_j+2

The weighted line of :func:`custom_transforms.relaxometry.fit_r2star` is the default, for equal spacing too: it reaches
the bound that noise sets and has less bias (`benchmarks/r2star_fits.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from custom_transforms.keys import (
    ECHO_TIMES_S,
    MAGNITUDE,
    MASK,
    NOTES,
    R2,
    R2STAR,
    SPIN_ECHO,
    SPIN_ECHO_TIMES_S,
)
from custom_transforms.registration import register_contrasts, resample, rotation_deg
from custom_transforms.relaxometry import check_echo_times, combine_echoes, fit_r2star
from custom_transforms.transforms.base import with_meta_of
from custom_transforms.transforms.geometry import check_same_grid, voxel_size_from_affine

R2StarMethod = Literal["weighted", "arlo"]

_SPACING = 1e-3  # relative difference between echo spacings that are equal
_FEW_ECHOES = 3  # fewer do not allow ARLO
_TWO_ECHOES = 2  # fewer show no decay
_FEWEST_VOXELS = 3  # along an axis: cubic splines in ITK read beyond the memory of two
_STILL_DEG, _STILL_VOXELS = 0.5, 0.25  # smaller motions are within the error of the registration


def fit_r2star_arlo(magnitude: Tensor, echo_times_s: Sequence[float]) -> Tensor:
    """Fit R2* by auto-regression on linear operations (ARLO), for equal echo spacing.

    Args:
        magnitude: (..., E, X, Y, Z), three echoes or more, any unit.
        echo_times_s: the E echo times in s.

    Returns:
        R2* >= 0 in 1/s, (..., 1, X, Y, Z); 0 where there is no signal.

    Raises:
        ValueError: fewer than three echoes, or spacings that differ.

    References:
        Pei 2015, doi:10.1002/mrm.25137.
    """
    check_echo_times(echo_times_s)
    spacings = [later - earlier for earlier, later in pairwise(echo_times_s)]
    if len(echo_times_s) < _FEW_ECHOES or max(spacings) - min(spacings) > _SPACING * max(spacings):
        raise ValueError(
            f"ARLO needs three or more echoes of equal spacing, got {[round(t, 6) for t in echo_times_s]} s; "
            "fit with method 'weighted'"
        )
    third = sum(spacings) / len(spacings) / 3
    first, middle, last = (magnitude.narrow(-4, i, len(echo_times_s) - 2) for i in range(3))
    integral, drop = third * (first + 4 * middle + last), first - last
    product = (integral * drop).sum(-4, keepdim=True)
    numerator = third * drop.square().sum(-4, keepdim=True) + product
    denominator = integral.square().sum(-4, keepdim=True) + third * product
    return torch.where(denominator > 0, numerator / denominator, 0.0).clamp(min=0)


def _weighted(magnitude: Tensor, echo_times_s: Sequence[float]) -> Tensor:
    return fit_r2star(magnitude, echo_times_s)[0]


def _inside(
    fit: Callable[[Tensor, Sequence[float]], Tensor], echoes: Tensor, times: Sequence[float], mask: Tensor | None
) -> Tensor:
    """Fit the voxels of a mask, (E, X, Y, Z) to (1, X, Y, Z), 0 outside; all if there is no mask on this grid."""
    values = convert_to_tensor(echoes, track_meta=False).float()
    if mask is None or mask.shape[1:] != values.shape[1:]:
        return with_meta_of(fit(values, times), echoes)
    inside = convert_to_tensor(mask, track_meta=False)[0] > 0
    rate = torch.zeros_like(values[:1])
    rate[:, inside] = fit(values[:, inside][..., None, None], times)[..., 0, 0]
    return with_meta_of(rate, echoes)


class FitR2Stard(Transform):
    """Fit R2* (1/s) to the magnitudes of the gradient echoes.

    Args:
        method: "weighted", a weighted line through the logarithm, or "arlo".
    """

    def __init__(self, *, method: R2StarMethod = "weighted") -> None:
        if method not in ("weighted", "arlo"):
            raise ValueError(f"method must be weighted or arlo, got {method!r}")
        self.method = method

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write r2star, or a note if there is one echo alone."""
        times = data[ECHO_TIMES_S]
        if len(times) < _TWO_ECHOES:
            return {**data, NOTES: [*data.get(NOTES, []), "there is one echo, so R2* cannot be fitted"]}
        fit = fit_r2star_arlo if self.method == "arlo" else _weighted
        return {**data, R2STAR: _inside(fit, data[MAGNITUDE], times, data.get(MASK))}


class AlignSpinEchod(Transform):
    """Bring the spin echoes to the grid of the gradient echoes: rigid motion of the head, cubic interpolation.

    Args:
        register: find the motion between both; False trusts the affines.
    """

    def __init__(self, *, register: bool = True) -> None:
        self.register = register

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Interpolate spin_echo, unless it lies on the grid and the head has not moved."""
        magnitude, spin_echo = data[MAGNITUDE], data[SPIN_ECHO]
        motion, notes = self._motion(magnitude, spin_echo, data[MASK])
        if not notes and _same_grid(spin_echo, magnitude):
            return dict(data)
        if min(spin_echo.shape[1:]) < _FEWEST_VOXELS:
            raise ValueError("the spin echoes are too thin to be interpolated; give them on the grid of the magnitude")
        affine = torch.linalg.inv(motion) @ spin_echo.affine.double().cpu()
        x, y, z = magnitude.shape[1:]
        values = convert_to_tensor(spin_echo, track_meta=False).float().cpu()
        moved = torch.stack([resample(echo, affine, magnitude.affine, (x, y, z)) for echo in values]).clamp(min=0)
        result = with_meta_of(moved.to(magnitude.device), magnitude)
        return {**data, SPIN_ECHO: result, NOTES: [*data.get(NOTES, []), *notes]}

    def _motion(self, magnitude: MetaTensor, spin_echo: MetaTensor, mask: Tensor) -> tuple[Tensor, list[str]]:
        """Give the motion (4, 4) of the head between both, and what to say of it; none if it is too small to matter."""
        still = torch.eye(4, dtype=torch.float64)
        if not self.register:
            return still, []
        fixed = MetaTensor(combine_echoes(magnitude.as_tensor()), affine=magnitude.affine)
        first = MetaTensor(spin_echo.as_tensor()[:1], affine=spin_echo.affine)
        motion = register_contrasts(fixed, mask, first)
        angle, shift = rotation_deg(motion), _shift_mm(motion, magnitude)
        if angle < _STILL_DEG and shift < _STILL_VOXELS * float(voxel_size_from_affine(magnitude.affine).min()):
            return still, []
        return motion, [f"the spin echoes were moved by {angle:.1f} degrees and {shift:.1f} mm to the gradient echoes"]


def _shift_mm(motion: Tensor, image: MetaTensor) -> float:
    """Give how far a motion (4, 4) brings the middle of an image, mm."""
    middle = torch.tensor([*((n - 1) / 2 for n in image.shape[1:]), 1.0], dtype=torch.float64)
    point = image.affine.double().cpu() @ middle
    return float((motion @ point - point)[:3].norm())


def _same_grid(image: MetaTensor, reference: MetaTensor) -> bool:
    try:
        check_same_grid("spin echoes", image, "gradient echoes", reference)
    except ValueError:
        return False
    return True


class FitR2d(Transform):
    """Fit R2 (1/s) to the magnitudes of the spin echoes, which lie on the grid of the gradient echoes.

    Args:
        skip_first_echo: leave out the first echo, which has no part of stimulated echoes while the later ones have.
    """

    def __init__(self, *, skip_first_echo: bool = False) -> None:
        self.skip_first_echo = skip_first_echo

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write r2."""
        first = int(self.skip_first_echo)
        spin_echo, times = data[SPIN_ECHO], data[SPIN_ECHO_TIMES_S][first:]
        return {**data, R2: _inside(_weighted, spin_echo[first:], times, data.get(MASK))}
