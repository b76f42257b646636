r"""Congruent unwrapping: the result differs from the wrapped phase by whole turns, and by nothing else.

    unwrapped = phase + 2 pi k,    k = round((expected - phase) / (2 pi))

One volume, the phase gained between the two echoes of the shortest spacing, is unwrapped in space by skimage. It gives
the rate of change w in rad/s. Every echo then follows in time, about the phase expected from the echoes before it:

    expected_j = w t_j + phi0,    w = sum_i m_i^2 t_i (phase_i - phi0) / sum_i m_i^2 t_i^2  over unwrapped echoes i < j

phi0 is what the smoothed first echo has besides w t_1. So all echoes share one choice of turns, in space and over time.

References:
    Abdul-Rahman 2007, doi:10.1364/AO.46.006623 (unwrapping in space along the most reliable path).
    Robinson 2017, doi:10.1002/nbm.3601 (review, with unwrapping in time).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import unwrap_phase
from torch import Tensor

from custom_transforms.keys import ECHO_TIMES_S, MAGNITUDE, MASK, PHASE, UNWRAPPED_PHASE
from custom_transforms.phantom.filters import gaussian_smooth
from custom_transforms.transforms.base import to_float_tensor, with_meta_of

_TURN = 2 * math.pi
_TINY = 1e-30  # relative to squared magnitudes: no division by 0
_WEAK = 0.01  # of the median weight: where the rate of change leans on its neighbours
_ROUNDS = 6  # in which pieces of a mask are joined, nearest first; the last takes all that remain
_NEIGHBOURS_VOXELS = 1.0
_OFFSET_VOXELS = 2.0  # over which phi0 is smoothed
_NEAR_HALF_TURN_RAD = 2.0  # |phi0| from which it may itself be wrapped


def wrap(phase: Tensor) -> Tensor:
    """Bring a phase in rad to (-pi, pi]."""
    return math.pi - torch.remainder(math.pi - phase, _TURN)


def congruent(phase: Tensor, expected: Tensor) -> Tensor:
    """Add the whole turns to ``phase`` that bring it nearest to ``expected`` (both in rad, same shape)."""
    return phase + _TURN * ((expected - phase) / _TURN).round()


def mask_box(mask: Tensor) -> tuple[slice, ...]:
    """Give the smallest box around a mask (1, X, Y, Z) as slices of (C, X, Y, Z).

    Raises:
        ValueError: the mask is empty.
    """
    found = (mask[0] > 0.5).nonzero()
    if not len(found):
        raise ValueError("the mask is empty: no voxel is above 0.5; give a mask with 1 in the brain")
    ends = zip(found.amin(0).tolist(), (found.amax(0) + 1).tolist(), strict=True)
    return (slice(None), *(slice(low, high) for low, high in ends))


def _bring_pieces_together(unwrapped: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Shift pieces of a mask by whole turns: the largest to the smallest median, others to what they lie next to."""
    pieces, count = ndimage.label(inside)
    main = 1 + int(np.bincount(pieces[inside])[1:].argmax())
    unwrapped = unwrapped - _TURN * np.rint(np.median(unwrapped[pieces == main]) / _TURN)
    joined = np.arange(count + 1) == main
    joined[0] = True
    for rounds_left in reversed(range(_ROUNDS)):
        if joined.all():
            break
        distance, nearest = ndimage.distance_transform_edt(~(inside & joined[pieces]), return_indices=True)
        gaps = np.where(joined, np.inf, ndimage.minimum(distance, pieces, np.arange(count + 1)))
        now = gaps <= gaps.min() + 1 if rounds_left else ~joined
        facing = np.where(now[pieces] & (distance <= gaps[pieces] + 1), pieces, 0)
        step = ndimage.median(unwrapped - unwrapped[tuple(nearest)], facing, np.flatnonzero(now))
        turns = np.zeros(count + 1)
        turns[now] = np.rint(step / _TURN)
        unwrapped = unwrapped - _TURN * turns[pieces]
        joined |= now
    return unwrapped


def unwrap_volume(phase: Tensor, mask: Tensor) -> Tensor:
    """Unwrap one volume in space.

    The largest connected piece of the mask gets the whole turns that bring its median nearest to 0. The other pieces
    follow, the nearest first, with those that bring them nearest to the pieces before them across the shortest gap.

    Args:
        phase: (1, X, Y, Z), wrapped, rad.
        mask: (1, X, Y, Z), above 0.5 where the phase is known.

    Returns:
        The phase plus whole turns, (1, X, Y, Z); outside the mask the phase itself.

    Raises:
        ValueError: the mask is empty.
    """
    box = mask_box(mask)
    inside = np.pad((mask > 0.5)[box][0].cpu().numpy(), ((0, 1),) * 3)  # the library warns of axes of length 1
    wrapped = np.pad(phase.detach()[box][0].cpu().numpy().astype(np.float64), ((0, 1),) * 3)
    found = np.asarray(unwrap_phase(np.ma.array(wrapped, mask=~inside), rng=0))
    turns = np.rint((_bring_pieces_together(found, inside) - wrapped) / _TURN) * inside
    whole = torch.zeros_like(phase)
    whole[box] = torch.from_numpy(turns[None, :-1, :-1, :-1]).to(phase)
    return phase + _TURN * whole


def phase_gained(phase: Tensor, echo_times_s: Sequence[float], mask: Tensor) -> tuple[Tensor, int]:
    """Unwrap the phase gained between the two successive echoes of the shortest spacing, the first such pair.

    Args:
        phase: (E, X, Y, Z), two echoes or more, wrapped, rad.
        echo_times_s: the E echo times in s.
        mask: (1, X, Y, Z), above 0.5 inside.

    Returns:
        Phase of echo i + 1 less that of echo i in rad, (1, X, Y, Z), and i.
    """
    spacings = [round(later - earlier, 7) for earlier, later in pairwise(echo_times_s)]
    i = spacings.index(min(spacings))
    return unwrap_volume(wrap(phase[i + 1 : i + 2] - phase[i : i + 1]), mask), i


def _lean_on_neighbours(rate: Tensor, weight: Tensor, inside: Tensor) -> Tensor:
    """Replace the rate of change by that of its neighbours where its own weight is small."""
    weak = _WEAK * weight[inside].median()
    both = gaussian_smooth(torch.cat([weight * rate, weight]), sigma_voxels=_NEIGHBOURS_VOXELS)
    around = both[:1] / both[1:].clamp(min=_TINY)
    own = weight / (weight + weak).clamp(min=_TINY)
    return torch.lerp(around, rate, own)


def _offset(phase: Tensor, weight: Tensor, inside: Tensor) -> Tensor:
    """Smooth the phase phi0 (1, X, Y, Z) that is left of the first echo, and unwrap it where it needs that."""
    parts = torch.cat([weight * phase.cos(), weight * phase.sin()])
    real, imaginary = gaussian_smooth(parts, sigma_voxels=_OFFSET_VOXELS).split(1)
    smooth = torch.atan2(imaginary, real)
    return unwrap_volume(smooth, inside) if bool((smooth[inside].abs() > _NEAR_HALF_TURN_RAD).any()) else smooth


def _unwrap_box(phase: Tensor, magnitude: Tensor, echo_times_s: Sequence[float], mask: Tensor) -> Tensor:
    if len(phase) == 1:
        return unwrap_volume(phase, mask)
    inside = mask > 0.5
    power = magnitude.square() * inside / magnitude[0][inside[0]].square().mean().clamp(min=_TINY)
    gained, i = phase_gained(phase, echo_times_s, mask)
    spacing_s = echo_times_s[i + 1] - echo_times_s[i]
    weight = spacing_s**2 * power[i : i + 1] * power[i + 1 : i + 2] / power[i : i + 2].sum(0, True).clamp(min=_TINY)
    rate = _lean_on_neighbours(gained / spacing_s, weight, inside)
    offset = _offset(phase[:1] - rate * echo_times_s[0], power[:1], inside)
    moment, unwrapped = weight * rate, []
    for wrapped, p, time in zip(phase.split(1), power.split(1), echo_times_s, strict=True):
        unwrapped.append(torch.where(inside, congruent(wrapped, rate * time + offset), wrapped))
        moment = moment + p * time * (unwrapped[-1] - offset)
        weight = weight + p * time**2
        rate = _lean_on_neighbours(moment / weight.clamp(min=_TINY), weight, inside)
    return torch.cat(unwrapped)


def unwrap_echoes(phase: Tensor, magnitude: Tensor, echo_times_s: Sequence[float], mask: Tensor) -> Tensor:
    """Unwrap all echoes, in space and then in time, as the head of the module says.

    A single echo is unwrapped in space.

    Args:
        phase: (E, X, Y, Z), wrapped, rad.
        magnitude: (E, X, Y, Z), any unit.
        echo_times_s: the E echo times in s, increasing.
        mask: (1, X, Y, Z), above 0.5 inside; the phase outside stays wrapped.

    Returns:
        (E, X, Y, Z) in rad; less ``phase`` it is a whole number of turns everywhere.

    Raises:
        ValueError: numbers of echoes that differ, or an empty mask.
    """
    if not len(phase) == len(magnitude) == len(echo_times_s):
        counts = f"{len(phase)}, {len(magnitude)} and {len(echo_times_s)}"
        raise ValueError(
            f"phases, magnitudes and echo times must be of one number, got {counts}; give all of each echo"
        )
    box = mask_box(mask)
    unwrapped = phase.clone()
    unwrapped[box] = _unwrap_box(phase[box], magnitude[box], echo_times_s, mask[box])
    return unwrapped


class UnwrapPhased(Transform):
    """Write ``unwrapped_phase`` from ``phase``, ``magnitude``, ``echo_times_s`` and ``mask``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Unwrap by :func:`unwrap_echoes`."""
        phase = to_float_tensor(data[PHASE])
        maps = [to_float_tensor(data[key]).as_subclass(Tensor) for key in (PHASE, MAGNITUDE, MASK)]
        unwrapped = unwrap_echoes(maps[0], maps[1], data[ECHO_TIMES_S], maps[2])
        return {**data, UNWRAPPED_PHASE: with_meta_of(unwrapped, phase)}
