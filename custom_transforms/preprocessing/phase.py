r"""The phase of the echoes in rad, from whatever numbers a scanner stores, and its sign by vendor.

    phase_rad = pi v / h  for a range -h <= v <= h,    phase_rad = 2 pi v / turn - pi  for 0 <= v < turn

A wrapped phase fills its range, noise outside the head included, and jumps from one end of it to the other. So the
range of the stored values is one turn, whatever their unit; with 0..4095 the turn is 4096 (the last level is the first
again), with -4096..4094 h is 4096.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from monai.transforms import Transform
from torch import Tensor

from custom_transforms.checks import InputError
from custom_transforms.keys import MAGNITUDE, MASK, NOTES, PHASE, PHASE_UNIT
from custom_transforms.transforms.base import image_name, to_float_tensor, with_meta_of

PhaseUnit = Literal["auto", "rad", "degrees", "scaled"]

PHASE_SIGN: Mapping[str, int] = MappingProxyType({"GE": -1, "Siemens": 1, "Philips": 1, "Canon": 1, "UIH": 1})
"""Sign of the stored phase: +1 where it grows with the field.

The scripts of the consensus on QSM (doi:10.1002/mrm.30006, github.com/kschan0214/QSM_Consensus_Paper_Example_Code)
invert the phase of GE and leave that of Siemens and Philips. Nothing published is known for Canon and United Imaging;
+1 is assumed. Sites and releases differ, so the sign is tested on the result (phase_sign.py)."""

_TURN = {"rad": 2 * math.pi, "degrees": 360.0}
_ROUNDING = 1e-3  # relative: pi as stored by scanners, 3.142 or 3.1416
_FILLED = 0.95  # of a turn that a range in rad or degrees must reach to be recognised
_SYMMETRIC = 0.03  # of the span, by which the ends of a range about 0 may differ
_END, _JUMP = 0.05, 0.75  # of the span: what counts as its end, and as a jump across it
_FEWEST_AT_ENDS, _FEWEST_JUMPS = 1e-3, 0.01  # of the voxels with a value; of those at the ends
_MOST_LEVELS = 2**16
_SAMPLES = 2**20
_ALTERNATES = -0.3  # mean cosine of the step between slices; +1 in a smooth phase


def phase_sign(vendor: str | None) -> int:
    """Give the entry of :data:`PHASE_SIGN` for a manufacturer's name, +1 for an unknown one or None."""
    name = (vendor or "").strip().upper()
    return next((sign for known, sign in PHASE_SIGN.items() if name.startswith(known.upper())), 1)


@dataclass(frozen=True)
class _Range:
    """The range of stored values; ``step`` is that between levels, 0 if there are none."""

    low: float
    high: float
    step: float

    @property
    def span(self) -> float:
        return self.high - self.low

    @classmethod
    def of(cls, values: Tensor) -> _Range:
        low, high = float(values.min()), float(values.max())
        levels = values[:: math.ceil(len(values) / _SAMPLES)].double().unique()
        if len(levels) < 2 or len(levels) > _MOST_LEVELS:
            return cls(low, high, 0.0)
        if bool((levels == levels.round()).all()):
            return cls(low, high, float(math.gcd(*(levels - levels[0]).long().tolist())))
        step = float(levels.diff().min())
        return cls(low, high, step if (high - low) / step < _MOST_LEVELS else 0.0)

    def is_turn_of(self, unit: str, *, filled: float) -> bool:
        """Say whether this is -1/2 to 1/2 or 0 to 1 turn of the unit, ``filled`` to that share."""
        turn = _TURN[unit]
        slack = _ROUNDING * turn
        centred = self.low >= -turn / 2 - slack and self.high <= turn / 2 + slack
        positive = self.low >= -slack and self.high <= turn + slack
        return (centred or positive) and self.span + self.step >= filled * turn


def _jumps_across_its_range(phase: Tensor, span: _Range) -> bool:
    """Say whether neighbours of the last echo lie at opposite ends of the range, as only in a wrapped phase."""
    phase = phase[-1]
    ends = ((phase > span.high - _END * span.span) | (phase < span.low + _END * span.span)).sum()
    filled = (phase != 0).sum()
    jumps = sum((phase.diff(dim=axis).abs() > _JUMP * span.span).sum() for axis in (-3, -2, -1))
    return bool(ends >= _FEWEST_AT_ENDS * filled) and bool(jumps >= _FEWEST_JUMPS * ends)


def _unit_of(phase: Tensor, span: _Range, name: str) -> str:
    for unit in _TURN:
        if span.is_turn_of(unit, filled=_FILLED):
            return unit
    if _jumps_across_its_range(phase, span):
        return "scaled"
    raise InputError(
        f"{name} runs from {span.low:.4g} to {span.high:.4g} without the jumps of a wrapped phase: an unwrapped phase "
        "or a field? Give those as unwrapped_phase or total_field, or say what it is with --phase_unit rad or degrees"
    )


def _next_power_of_two(limit: float) -> float:
    """Give the end of a range of scaled integers whose last levels no voxel reached; else the limit itself."""
    power = 2.0 ** math.ceil(math.log2(limit))
    return power if limit == round(limit) and limit >= (1 - _SYMMETRIC) * power else limit


def _scaled_to_rad(phase: Tensor, span: _Range) -> tuple[Tensor, float]:
    """Read the range as one turn, 0 staying 0 where the range is symmetric; give the turn, too."""
    if abs(span.low + span.high) <= _SYMMETRIC * span.span:
        half = _next_power_of_two(max(-span.low, span.high))
        return phase * (math.pi / half), 2 * half
    start = 0.0 if 0 <= span.low <= _SYMMETRIC * span.span else span.low
    turn = _next_power_of_two(span.high - start + span.step)
    return (phase - start) * (2 * math.pi / turn) - math.pi, turn


def _checked_range(phase: Tensor, inside: Tensor | None, name: str) -> _Range:
    finite = phase.isfinite()
    bad = ~finite if inside is None else ~finite & (inside > 0.5)
    if bad.any():
        raise InputError(f"{name} has {int(bad.sum())} NaN or infinite values inside the head; fill or mask them")
    clean = bool(finite.all())
    for number, (echo, known) in enumerate(zip(phase, finite, strict=True), start=1):
        values = echo.flatten() if clean else echo[known]
        if values.numel() == 0 or bool(values.min() == values.max()):
            raise InputError(f"{name} has one value only in echo {number}; give the phase as the scanner stored it")
    return _Range.of(phase.flatten() if clean else phase[finite])


def scale_phase(
    phase: Tensor, *, unit: PhaseUnit = "auto", inside: Tensor | None = None, name: str = PHASE
) -> tuple[Tensor, str | None]:
    """Bring a stored phase to rad. A value at 0 or +-pi is a value like all others and stays.

    Args:
        phase: (E, X, Y, Z), wrapped, in rad, degrees, or numbers whose range is one turn.
        unit: "auto" tells them apart by their range.
        inside: (1 or E, X, Y, Z), above 0.5 where values are needed; None is everywhere. NaN elsewhere becomes 0.
        name: of the phase in messages.

    Returns:
        The phase in rad within [-pi, pi], and a sentence on how it was read, None if it was in rad.

    Raises:
        ValueError: an unknown unit.
        InputError: NaN inside, a constant echo, or no wrapped phase.
    """
    if unit not in ("auto", "scaled", *_TURN):
        raise ValueError(f"the unit of the phase must be auto, rad, degrees or scaled, got {unit!r}")
    span = _checked_range(phase, inside, name)
    phase = phase.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    found = _unit_of(phase, span, name) if unit == "auto" else unit
    if found == "scaled":
        rad, turn = _scaled_to_rad(phase, span)
        return rad, f"{name} runs from {span.low:.6g} to {span.high:.6g} and was read with {turn:.6g} as one turn"
    if not span.is_turn_of(found, filled=0):
        raise InputError(
            f"{name} runs from {span.low:.4g} to {span.high:.4g}, more than a turn in {found}; "
            "give the wrapped phase, or another --phase_unit"
        )
    rad = phase * (2 * math.pi / _TURN[found])
    if span.high > (0.5 + _ROUNDING) * _TURN[found]:
        rad = torch.where(rad > math.pi, rad - 2 * math.pi, rad)
    rad = rad.clamp(-math.pi, math.pi)
    note = f"{name} runs from {span.low:.4g} to {span.high:.4g} and was read as degrees"
    return rad, None if found == "rad" else note


def slice_alternation(magnitude: Tensor, phase: Tensor) -> int | None:
    """Find the axis (0, 1, 2) along which the phase of the first echo steps by half a turn from slice to slice.

    GE stores real and imaginary parts with a sign that alternates along the slices, as the consensus scripts note.
    """
    for axis in range(3):
        n = phase.shape[axis + 1] - 1
        weight = magnitude[0].narrow(axis, 1, n) * magnitude[0].narrow(axis, 0, n)
        if float((weight * phase[0].diff(dim=axis).cos()).sum()) < _ALTERNATES * float(weight.sum()):
            return axis
    return None


def half_turn_every_second_slice(phase: Tensor, axis: int) -> Tensor:
    """Turn every second slice along a spatial axis (0, 1, 2) of (E, X, Y, Z) by half a turn, within (-pi, pi]."""
    shape = [1, 1, 1, 1]
    shape[axis + 1] = -1
    odd = (torch.arange(phase.shape[axis + 1], device=phase.device) % 2).reshape(shape).bool()
    return torch.where(odd, torch.where(phase > 0, phase - math.pi, phase + math.pi), phase)


class ScalePhased(Transform):
    """Bring the phase to rad by :func:`scale_phase`, and undo a sign that alternates from slice to slice.

    Args:
        unit: see :func:`scale_phase`.
    """

    def __init__(self, *, unit: PhaseUnit = "auto") -> None:
        self.unit = unit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale ``phase``, from ``phase_unit`` if known; NaN may be outside ``mask``, or where ``magnitude`` is 0."""
        result, phase = dict(data), to_float_tensor(data[PHASE])
        magnitude, mask = (
            None if data.get(key) is None else to_float_tensor(data[key]).as_subclass(Tensor)
            for key in (MAGNITUDE, MASK)
        )
        signal = None if magnitude is None else magnitude.nan_to_num()
        inside = mask if mask is not None else None if signal is None else (signal > 0).float()
        name = image_name(PHASE, data[PHASE])
        unit = data.get(PHASE_UNIT, "auto") if self.unit == "auto" else self.unit
        rad, note = scale_phase(phase.as_subclass(Tensor), unit=unit, inside=inside, name=name)
        notes = [] if note is None else [note]
        axis = None if signal is None else slice_alternation(signal, rad)
        if axis is not None:
            rad = half_turn_every_second_slice(rad, axis)
            notes.append(f"{name} alternated by half a turn from slice to slice along axis {axis + 1}; this was undone")
        result[PHASE] = with_meta_of(rad, phase)
        result[NOTES] = [*data.get(NOTES, []), *notes]
        return result
