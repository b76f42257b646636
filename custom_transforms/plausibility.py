"""Is the input of a reconstruction plausible, and does its result agree?

What can be used but looks wrong (a field in Hz that is said to be in ppm) is a finding: a sentence that names the file
and the remedy, for the caller to refuse or to let pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from custom_transforms.checks import HAS_ORIENTATION, RATE_NAMES, rate_key, user_input
from custom_transforms.keys import LOCAL_FIELD, MASK, R2PRIME, R2STAR
from custom_transforms.phantom.random_draws import LONGEST_MM, SLICE_RATIO, VOXEL_SIZE_MM
from custom_transforms.physics import hz_per_ppm
from custom_transforms.transforms.axial import AxialFrame
from custom_transforms.transforms.base import image_name
from custom_transforms.transforms.field import FieldUnit, LocalFieldToPpm
from custom_transforms.transforms.geometry import b0_direction_from_affine, unit_vector, voxel_size_from_affine
from custom_transforms.transforms.relaxometry import RateUnit, ScaleR2Prime

FIELD_SD_PPM = (0.0004, 0.3)
"""Plausible SD of a local field in the brain: 0.01 ppm is usual, 0.3 ppm is that of a field before its background is
removed."""

RATE_MEDIAN_PER_S = {R2PRIME: (0.3, 500.0), R2STAR: (7.0, 1000.0)}
"""Plausible median in the brain; 3 to 10 1/s of R2' and 15 to 25 1/s of R2* are usual at 3 T. R2* holds R2, which is
above 7 1/s in all tissue at any field strength."""

RATE_USUAL_PER_S = {R2PRIME: (1.0, 20.0), R2STAR: (7.0, 100.0)}
"""Usual median in the brain: narrow enough to tell 1/ms, below, from a map that is already in ppm, above."""

R2PRIME_HIGH_PER_S_TESLA = 14.0 / 3.0
"""Median of R2' in the brain, over the field strength, from which it looks like R2*."""

RELAXIVITY_PER_S_PPM_TESLA = (5.0, 500.0)
"""Plausible relaxivity over the field strength: 46 is the default, 108 that of theory."""

LONGEST_ECHO_TIME_S = 0.5
"""Signal is gone by then: a larger number is a time in ms."""

_B0_TESLA = (0.05, 25.0)  # field strengths of scanners
_BINARY_TOLERANCE = 1e-3  # rounding of masks stored with a scale factor
_ROUNDING = 1.02  # of voxel sizes in headers
_R2_TESLA = 3.0  # of the R2 that methods without spin echoes take away
_SAME_FIELD_STRENGTH = 0.1  # relative: scanners of 3 T have 2.9 T
_GRID_STEP = 2e-3  # voxels, from turns of 90 degrees and whole voxels: the rounding of an AxialFrame


def implausible(
    maps: Mapping[str, MetaTensor],
    *,
    field_unit: FieldUnit,
    rate_unit: RateUnit,
    b0_tesla: float,
    echo_time_s: float | None,
    relaxivities_per_s_ppm: tuple[float, float],
) -> list[str]:
    """Look for values that do not fit their unit, and for a mask that is not binary.

    Args:
        maps: local_field, mask, and r2prime or r2star if given, as :func:`custom_transforms.checks.check_maps` wants.
        field_unit: what the unit of the local field is said to be.
        rate_unit: what the unit of R2' or R2* is said to be.
        b0_tesla: main field in T.
        echo_time_s: echo time in s of a local field in rad.
        relaxivities_per_s_ppm: Dr of paramagnetic and of diamagnetic sources in 1/s/ppm.

    Returns:
        One finding for each setting or map that looks wrong.
    """
    mask = maps[MASK].as_tensor()
    field, rate = maps[LOCAL_FIELD].as_tensor()[mask > 0.5], rate_key(maps)
    with user_input():
        sd_ppm = float(LocalFieldToPpm(unit=field_unit, b0_tesla=b0_tesla, echo_time_s=echo_time_s)(field).std())
    findings = _implausible_settings(b0_tesla, relaxivities_per_s_ppm)
    if echo_time_s is not None and echo_time_s > LONGEST_ECHO_TIME_S:
        findings.append(f"an echo time of {echo_time_s:g} s looks like ms; give --echo_time_s in seconds")
    if not FIELD_SD_PPM[0] <= sd_ppm <= FIELD_SD_PPM[1]:
        remedy = _field_remedy(float(field.std()), field_unit, b0_tesla)
        name = image_name(LOCAL_FIELD, maps[LOCAL_FIELD])
        findings.append(f"{name} has an SD of {sd_ppm:.2g} ppm if its unit is {field_unit}; {remedy}")
    if rate is not None:
        findings += _implausible_rate(rate, maps, rate_unit)
    if float(torch.minimum(mask.abs(), (mask - 1).abs()).max()) > _BINARY_TOLERANCE:
        name = image_name(MASK, maps[MASK])
        findings.append(f"{name} has values other than 0 and 1; store 1 inside and 0 outside")
    return findings


def _implausible_rate(rate: str, maps: Mapping[str, MetaTensor], unit: RateUnit) -> list[str]:
    median_per_s = _median_per_s(maps[rate], maps[MASK], unit)
    if RATE_MEDIAN_PER_S[rate][0] <= median_per_s <= RATE_MEDIAN_PER_S[rate][1]:
        return []
    name, remedy = image_name(rate, maps[rate]), _rate_remedy(rate, median_per_s, unit)
    return [f"{name} has a median of {median_per_s:.2g} 1/s if its unit is {unit}; {remedy}"]


def _implausible_settings(b0_tesla: float, relaxivities_per_s_ppm: tuple[float, float]) -> list[str]:
    findings = []
    if not _B0_TESLA[0] <= b0_tesla <= _B0_TESLA[1]:
        findings.append(f"a main field of {b0_tesla:g} T is not that of a scanner; give --b0_tesla in tesla")
    low, high = (round(bound * b0_tesla, 1) for bound in RELAXIVITY_PER_S_PPM_TESLA)
    wrong = [f"{value:g}" for value in relaxivities_per_s_ppm if not low <= value <= high]
    if wrong:
        usual = f"at {b0_tesla:g} T it is between {low:g} and {high:g}"
        findings.append(f"a relaxivity of {wrong[0]} 1/s/ppm is not that of tissue, {usual}; check its unit")
    return findings


def _field_remedy(sd: float, unit: FieldUnit, b0_tesla: float) -> str:
    in_ppm = {"ppm": sd, "hz": sd / hz_per_ppm(b0_tesla)}
    for other, sd_ppm in in_ppm.items():
        if other != unit and FIELD_SD_PPM[0] <= sd_ppm <= FIELD_SD_PPM[1]:
            return f"it looks like {other}: give --field_unit {other}"
    return "check its unit, and that the background field is removed"


def _median_per_s(rate: MetaTensor, mask: MetaTensor, unit: RateUnit) -> float:
    """Give the median of R2' or R2* in the mask, in 1/s."""
    values = rate.as_tensor()[mask.as_tensor() > 0.5]
    return float(ScaleR2Prime(relaxivity_per_s_ppm=1.0, unit=unit)(values).median())


def _rate_remedy(rate: str, median_per_s: float, unit: RateUnit) -> str:
    other, factor = ("per_ms", 1000.0) if unit == "per_s" else ("per_s", 0.001)
    if RATE_USUAL_PER_S[rate][0] <= median_per_s * factor <= RATE_USUAL_PER_S[rate][1]:
        return f"it looks like {other}: give --rate_unit {other}"
    if rate == R2STAR and RATE_USUAL_PER_S[R2PRIME][0] <= median_per_s <= RATE_MEDIAN_PER_S[R2STAR][0]:
        return "it looks like R2': give it as --r2prime"
    name = RATE_NAMES[rate]
    return f"check its unit, that it is {name} and not yet divided by the relaxivity, and that the mask is the brain's"


def notes(
    maps: Mapping[str, MetaTensor],
    *,
    rate_unit: RateUnit,
    b0_tesla: float,
    b0_direction: Sequence[float] | None,
    axial_mm: float | None = None,
    learned: bool = True,
) -> list[str]:
    """Say what a reconstruction will do about harmless oddities of the maps.

    Args:
        maps: local_field, mask, and r2prime or r2star if given, as :func:`custom_transforms.checks.check_maps` wants.
        rate_unit: unit of R2' or R2*.
        b0_tesla: main field in T.
        b0_direction: (3,) in voxel axes, or None for that of the affine.
        axial_mm: the one voxel size that a direct network knows, with B0 along +z; None for any other method.
        learned: the method is a network, which knows the voxel sizes of its training data.

    Returns:
        One sentence for each.
    """
    field, inside = maps[LOCAL_FIELD], maps[MASK].as_tensor() > 0.5
    said = _rate_notes(maps, inside, rate_unit, b0_tesla)
    if b0_direction is None and not field.meta[HAS_ORIENTATION]:
        name = image_name(LOCAL_FIELD, field)
        said.append(f"{name} has no orientation in its header: B0 is along its third axis, or give --b0_direction")
    sizes = voxel_size_from_affine(field.affine)
    size = " x ".join(f"{v:.2g}" for v in sizes.tolist())
    if axial_mm is not None:
        direction = b0_direction_from_affine(field.affine) if b0_direction is None else unit_vector(b0_direction)
        if _interpolates(AxialFrame.around(inside.float(), sizes, direction, target_mm=axial_mm)):
            known = f"{axial_mm:g} mm voxels with B0 along +z"
            said.append(f"the maps are resampled to {known}, all that the network knows, and back; expect blurring")
    elif learned and not _is_trained_size(sizes.tolist()):
        low, high = VOXEL_SIZE_MM
        known = f"{low:g} to {high:g} mm with slices up to {SLICE_RATIO:g} times as thick and {LONGEST_MM:g} mm"
        said.append(f"voxels of {size} mm are not of the network's training data, {known}; expect a bias")
    return said


def _rate_notes(maps: Mapping[str, MetaTensor], inside: Tensor, rate_unit: RateUnit, b0_tesla: float) -> list[str]:
    said: list[str] = []
    rate = rate_key(maps)
    if rate is None:
        return said
    name = image_name(rate, maps[rate])
    negative = float((maps[rate].as_tensor()[inside] < 0).float().mean())
    if negative > 0:
        said.append(f"{name} is negative in {negative:.1%} of the mask; taken as 0 there")
    median_per_s = _median_per_s(maps[rate], maps[MASK], rate_unit)
    if rate == R2PRIME and median_per_s > R2PRIME_HIGH_PER_S_TESLA * b0_tesla:
        said.append(f"{name} has a median of {median_per_s:.2g} 1/s, as R2* has; if it is R2*, give it as --r2star")
    if rate == R2STAR and abs(b0_tesla / _R2_TESLA - 1) > _SAME_FIELD_STRENGTH:
        said.append(f"the part of R2* that is R2 is that of {_R2_TESLA:g} T; at {b0_tesla:g} T expect a bias")
    return said


def _interpolates(frame: AxialFrame) -> bool:
    """Say whether the way to the frame is more than turns of 90 degrees."""
    step = frame.matrix.abs()
    return float(torch.minimum(step, (step - 1).abs()).max()) > _GRID_STEP


def _is_trained_size(voxel_size_mm: list[float]) -> bool:
    small, middle, large = sorted(voxel_size_mm)
    in_plane = VOXEL_SIZE_MM[0] <= small * _ROUNDING and middle <= VOXEL_SIZE_MM[1] * _ROUNDING
    return in_plane and large <= min(SLICE_RATIO * small, LONGEST_MM) * _ROUNDING


def doubtful_sign(chi_total_ppm: NDArray, maps: Mapping[str, MetaTensor]) -> list[str]:
    """Test the sign of the field by its result: veins and deep grey matter must come out paramagnetic.

    They are where R2' and R2* are highest, so chi_total is averaged over the highest hundredth of the mask. Without
    either of them there is no test.

    Args:
        chi_total_ppm: (X, Y, Z) in ppm.
        maps: mask and, if given, r2prime or r2star, checked by :func:`custom_transforms.checks.check_maps`.

    Returns:
        One sentence, or none.
    """
    inside = maps[MASK].numpy()[0] > 0.5
    rate = rate_key(maps)
    if rate is None:
        return []
    values = maps[rate].numpy()[0]
    strong = inside & (values >= np.quantile(values[inside], 0.99))
    mean_ppm = float(chi_total_ppm[strong].mean())
    if mean_ppm >= 0:
        return []
    return [
        f"where {RATE_NAMES[rate]} is highest chi_total is {mean_ppm:.2g} ppm, but veins and deep grey matter are "
        "paramagnetic; unless there are large calcifications, the sign of the field is wrong: try --field_sign -1"
    ]
