"""What sidecars say of a measurement, and is it possible: echo times, main field, vendor, orientation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from custom_transforms.checks import InputError

VENDORS = {
    "ge": "GE",
    "general electric": "GE",
    "siemens": "Siemens",
    "philips": "Philips",
    "canon": "Canon",
    "toshiba": "Canon",
    "uih": "UIH",
    "united imaging": "UIH",
}
"""Begin of what a header calls the manufacturer, in lower case, to the name used here."""

_LONGEST_ECHO_TIME_S = 0.5
_SAME_TIME_S = 1e-5
_WEAKEST_TESLA, _STRONGEST_TESLA = 0.01, 25.0
_FEWEST_GAUSS, _MOST_GAUSS = 10000.0, 250000.0
_FEWEST_MILLITESLA = 1000.0
_OBLIQUE_DEG = 1.0
_MOST_SIDECAR_BYTES = 2**24  # those of scanners have some kB
_EXACT = 1e-4  # cosine that single precision and the rounding of headers leave


def check_sidecar_size(sidecar: Path) -> None:
    """Refuse a sidecar that is larger than 16 MiB.

    Raises:
        InputError: it is.
    """
    size = sidecar.stat().st_size
    if size > _MOST_SIDECAR_BYTES:
        raise InputError(f"the sidecar {sidecar} has {size} bytes, more than any scanner writes; repair or remove it")


def read_sidecar(image: str) -> dict[str, Any]:
    """Read the JSON file beside an image, the same name but for the ending; empty if there is none.

    Raises:
        InputError: it is not JSON, or is larger than 16 MiB.
    """
    path = Path(image)
    name = path.name.removesuffix(".gz")
    sidecar = path.with_name(name.rsplit(".", 1)[0] + ".json")
    if not os.path.isfile(sidecar):
        return {}
    check_sidecar_size(sidecar)
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the sidecar {sidecar} is not JSON; repair or remove it") from error
    return content if isinstance(content, dict) else {}


def echo_times_of(sidecars: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Give the EchoTime of every file, or the several of one; () where one lacks it or has no number."""
    times: list[float] = []
    for sidecar in sidecars:
        entry = sidecar.get("EchoTime")
        for value in entry if isinstance(entry, list | tuple) else [entry]:
            number = number_of(value)
            if number is None:
                return ()
            times.append(number)
    return tuple(times)


def number_of(value: object) -> float | None:
    """Give a number of a sidecar; None for anything else, and for whole numbers beyond double precision."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def first_entry(sidecars: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Give an entry of the first sidecar that has it, else None."""
    return next((sidecar[key] for sidecar in sidecars if sidecar.get(key) is not None), None)


def vendor_of(manufacturer: object) -> str | None:
    """Give the vendor's name of :data:`VENDORS`, None for another or none."""
    text = str(manufacturer or "").strip().lower()
    return next((name for begin, name in VENDORS.items() if text.startswith(begin)), None)


def scanner_of(sidecars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give what sidecars say of the scanner.

    Returns:
        b0_tesla, vendor and sidecar_orientation, each None where the sidecars do not say it.
    """
    field = first_entry(sidecars, "MagneticFieldStrength")
    orientation = first_entry(sidecars, "ImageOrientationPatientDICOM")
    cosines = [number_of(value) for value in orientation] if isinstance(orientation, list | tuple) else []
    known = len(cosines) == 6 and all(value is not None and math.isfinite(value) for value in cosines)
    return {
        "b0_tesla": number_of(field),
        "vendor": vendor_of(first_entry(sidecars, "Manufacturer")),
        "sidecar_orientation": tuple(cosines) if known else None,
    }


def check_echo_times(what: str, echo_times_s: Sequence[float], echoes: int, option: str = "echo_times_s") -> None:
    """Refuse echo times that cannot be those of the echoes; their order does not matter.

    Args:
        what: how the error calls the scan.
        echo_times_s: echo times in s.
        echoes: how many there are.
        option: the setting that gives them.

    Raises:
        InputError: none, another number, not positive, in ms, or one twice.
    """
    times = list(map(float, echo_times_s))
    listed = ", ".join(f"{time:g}" for time in times)
    if not times:
        raise InputError(f"{what} has no echo times; add EchoTime to the JSON sidecars or give --{option}=0.004,0.008")
    if len(times) != echoes:
        raise InputError(f"{what} has {echoes} echoes and {len(times)} echo times ({listed}); give one for each echo")
    if not all(math.isfinite(time) and time > 0 for time in times):
        raise InputError(f"{what} has the echo times {listed}; they must be positive, in s")
    if max(times) > _LONGEST_ECHO_TIME_S:
        remedy = ",".join(f"{time / 1000:g}" for time in times)
        raise InputError(f"{what} has the echo times {listed}, which look like ms; give them in s: --{option}={remedy}")
    ordered = sorted(times)
    for earlier, later in pairwise(ordered):
        if later - earlier < _SAME_TIME_S:
            raise InputError(f"{what} has the echo time {later:g} s twice ({listed}); give each echo once")


def check_b0_tesla(what: str, b0_tesla: float | None) -> float:
    """Refuse a main field that is missing or not in T.

    Raises:
        InputError: none, in gauss, in mT, or of no scanner.
    """
    if b0_tesla is None:
        raise InputError(
            f"{what} has no field strength; add MagneticFieldStrength to the sidecars or give --b0_tesla=3"
        )
    if _WEAKEST_TESLA <= b0_tesla <= _STRONGEST_TESLA:
        return float(b0_tesla)
    found = f"{what} has a field strength of {b0_tesla:g}"
    if _FEWEST_GAUSS <= b0_tesla <= _MOST_GAUSS:
        raise InputError(f"{found}, which looks like gauss; give it in T: --b0_tesla={b0_tesla / 1e4:g}")
    if _FEWEST_MILLITESLA <= b0_tesla <= _FEWEST_GAUSS:
        raise InputError(f"{found}, which looks like mT; give it in T: --b0_tesla={b0_tesla / 1e3:g}")
    raise InputError(f"{found} T, which no scanner has; give it in T, such as --b0_tesla=3")


def _sidecar_axes(orientation: Sequence[float]) -> np.ndarray:
    """Give the directions of row, column and slice as columns (3, 3) in RAS+."""
    row, column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    return np.diag([-1.0, -1.0, 1.0]) @ axes / np.linalg.norm(axes, axis=0).clip(min=1e-12)


def deobliqued_note(affine: np.ndarray, orientation: Sequence[float] | None) -> str | None:
    """Say if an image pretends to be axial while its sidecar knows of oblique slices.

    Args:
        affine: (4, 4), voxel indices to world coordinates (RAS+) in mm.
        orientation: ImageOrientationPatientDICOM, two unit vectors in LPS+, or None.

    Returns:
        A sentence with the direction of B0 in voxel axes as the sidecar has it; None if all is well.
    """
    if orientation is None:
        return None
    image = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes = _sidecar_axes(orientation)
    largest = np.abs(axes).max(axis=0).min()  # cosine of the angle to the nearest world axis
    angle_deg = math.degrees(math.acos(min(1.0, float(largest))))
    if np.sort(np.abs(image), axis=0)[1].max() > _EXACT or angle_deg <= _OBLIQUE_DEG:
        return None
    likeness = image.T @ axes
    nearest = np.abs(likeness).argmax(axis=1)
    direction = axes[2, nearest] * np.sign(likeness[range(3), nearest])
    listed = ",".join(f"{value:.4f}" for value in direction)
    return (
        f"deobliqued: the affine is exactly axial, but the sidecar's slices are oblique by {angle_deg:.1f} degrees; "
        f"B0 lies as the sidecar says unless the image was resampled: give --b0_direction={listed} or the original"
    )
