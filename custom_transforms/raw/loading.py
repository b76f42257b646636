"""From the files of a scan to the dictionary that preprocessing takes, checked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from custom_transforms import keys
from custom_transforms.checks import HAS_ORIENTATION, InputError
from custom_transforms.transforms.base import image_name
from custom_transforms.transforms.geometry import check_same_grid

from .content import binary, check_content, finite, on_grid_of
from .headers import check_b0_tesla, check_echo_times, deobliqued_note
from .images import read_echoes, with_values
from .scan import RawScan

_FIELDS = (keys.UNWRAPPED_PHASE, keys.TOTAL_FIELD, keys.LOCAL_FIELD)  # each makes the phase needless
_OTHER_GRIDS = (keys.R2, keys.SPIN_ECHO)  # spin echoes have a resolution of their own
_LARGEST_MISMATCH_S = 1e-5

Data = dict[Hashable, Any]
Images = dict[Hashable, MetaTensor]


def load_scan(scan: RawScan, *, force: bool = False) -> Data:
    """Read a scan: its echoes in the order of their times, the phase as the scanner stored it, and the user's maps.

    Real and imaginary parts, or complex numbers, become magnitude and phase in rad.

    Args:
        scan: the files and the acquisition.
        force: replace NaN and infinite values by 0 and cut masks at 0.5, with a note, instead of refusing them.

    Returns:
        magnitude, phase, spin_echo and maps, each MetaTensor (N, X, Y, Z) float32, with echo_times_s, b0_tesla, vendor,
        spin_echo_times_s and notes, and phase_unit where it is known; what the scan does not have is left out.

    Raises:
        FileNotFoundError: a file is missing.
        InputError: what cannot be processed: missing or impossible echo times, files that do not fit together, NaN.
    """
    data: Data = {keys.NOTES: list(scan.notes), keys.VENDOR: scan.vendor}
    data |= {key: _read_map(key, path) for key, path in scan.maps.items()}
    data |= _gradient_echoes(scan)
    data |= _spin_echoes(scan)
    _check_phase(scan, data)
    data[keys.B0_TESLA] = check_b0_tesla(scan.name, scan.b0_tesla)
    _check_grids(data)
    for key in [key for key, value in data.items() if isinstance(value, MetaTensor)]:
        data[key] = finite(str(key), data[key], data.get(keys.MASK), data[keys.NOTES], force=force)
        check_content(str(key), data[key])
    if keys.MASK in data:
        data[keys.MASK] = binary(data[keys.MASK], data[keys.NOTES], force=force)
    if keys.R2 in data:
        reference = next(data[key] for key in (keys.MAGNITUDE, *_FIELDS) if key in data)
        data[keys.R2] = on_grid_of(reference, keys.R2, data[keys.R2])
    data[keys.NOTES] += _notes(scan, data)
    return data


def _read_map(key: str, path: str) -> MetaTensor:
    image = read_echoes(key, [path])
    if image.is_complex():
        raise InputError(f"{key} ({path}) holds complex numbers; store real ones")
    if len(image) > 1 and key != keys.UNWRAPPED_PHASE:
        raise InputError(f"{key} ({path}) holds {len(image)} volumes; store one")
    return image


def _by_time(echoes: MetaTensor, times_s: Sequence[float]) -> MetaTensor:
    order = sorted(range(len(times_s)), key=lambda i: times_s[i])
    return echoes if order == list(range(len(order))) else with_values(echoes.as_tensor()[order], echoes)


def _pair(scan: RawScan, names: tuple[str, str], files: tuple[Sequence[str], Sequence[str]]) -> list[MetaTensor]:
    """Read magnitude and phase, or real and imaginary parts, that belong together."""
    first, second = (read_echoes(name, paths) for name, paths in zip(names, files, strict=True))
    titles = image_name(names[0], first), image_name(names[1], second)
    if len(first) != len(second):
        raise InputError(f"{titles[0]} has {len(first)} echoes and {titles[1]} has {len(second)}; give the same echoes")
    try:
        check_same_grid(titles[1], second, titles[0], first)
    except ValueError as error:
        finding = str(error).rsplit(";", 1)[0]
        raise InputError(f"{finding}; give both of the same scan: a wrapped phase cannot be resampled") from error
    return [first, second]


def _magnitude_and_phase(scan: RawScan) -> Images:
    """Read them from whatever the scan has."""
    if scan.magnitude and scan.phase:
        magnitude, phase = _pair(scan, (keys.MAGNITUDE, keys.PHASE), (scan.magnitude, scan.phase))
        if magnitude.is_complex() or phase.is_complex():
            raise InputError(f"{scan.name} has a phase beside complex numbers; give the complex image alone")
        return {keys.MAGNITUDE: magnitude, keys.PHASE: phase}
    if scan.real or scan.imaginary:
        if not (scan.real and scan.imaginary):
            raise InputError(f"{scan.name} has only one of real and imaginary parts; give both")
        real, imaginary = _pair(scan, ("real", "imaginary"), (scan.real, scan.imaginary))
        return _polar(torch.complex(real.as_tensor(), imaginary.as_tensor()), real)
    if scan.magnitude:
        magnitude = read_echoes(keys.MAGNITUDE, scan.magnitude)
        is_complex = magnitude.is_complex()
        return _polar(magnitude.as_tensor(), magnitude) if is_complex else {keys.MAGNITUDE: magnitude}
    if scan.phase:
        raise InputError(f"{scan.name} has a phase and no magnitude; give --magnitude, its weights come from there")
    return {}


def _gradient_echoes(scan: RawScan) -> Data:
    """Give magnitude and phase in the order of the echo times."""
    images = _magnitude_and_phase(scan)
    if not images:
        return {}
    check_echo_times(scan.name, scan.echo_times_s, len(images[keys.MAGNITUDE]))
    _check_phase_times(scan)
    ordered = {key: _by_time(image, scan.echo_times_s) for key, image in images.items()}
    unit: Data = {} if scan.phase else {keys.PHASE_UNIT: "rad"}  # it was made of real and imaginary parts
    return {**ordered, **unit, keys.ECHO_TIMES_S: tuple(sorted(scan.echo_times_s))}


def _polar(echoes: Tensor, reference: MetaTensor) -> Images:
    return {keys.MAGNITUDE: with_values(echoes.abs(), reference), keys.PHASE: with_values(echoes.angle(), reference)}


def _check_phase_times(scan: RawScan) -> None:
    own = scan.phase_echo_times_s
    pairs = zip(scan.echo_times_s, own, strict=False)
    if own and (len(own) != len(scan.echo_times_s) or any(abs(a - b) > _LARGEST_MISMATCH_S for a, b in pairs)):
        listed = [", ".join(f"{time:g}" for time in times) for times in (scan.echo_times_s, own)]
        raise InputError(
            f"{scan.name}: the sidecars of the magnitude have the echo times {listed[0]} and those of the phase "
            f"{listed[1]}; give files of the same scan, or --echo_times_s"
        )


def _spin_echoes(scan: RawScan) -> Data:
    if not scan.spin_echo:
        return {}
    echoes = read_echoes(keys.SPIN_ECHO, scan.spin_echo)
    if echoes.is_complex():
        echoes = with_values(echoes.as_tensor().abs(), echoes)
    check_echo_times(f"{scan.name}, spin echo,", scan.spin_echo_times_s, len(echoes), keys.SPIN_ECHO_TIMES_S)
    ordered = _by_time(echoes, scan.spin_echo_times_s)
    return {keys.SPIN_ECHO: ordered, keys.SPIN_ECHO_TIMES_S: tuple(sorted(scan.spin_echo_times_s))}


def _check_phase(scan: RawScan, data: Data) -> None:
    if keys.PHASE not in data and not any(key in data for key in _FIELDS):
        raise InputError(f"{scan.name} has no phase; give --phase, or a map of {', '.join(_FIELDS)}")
    unwrapped, times = data.get(keys.UNWRAPPED_PHASE), data.get(keys.ECHO_TIMES_S)
    if unwrapped is not None and times is not None and len(unwrapped) != len(times):
        title = image_name(keys.UNWRAPPED_PHASE, unwrapped)
        raise InputError(
            f"{title} has {len(unwrapped)} echoes and the magnitude has {len(times)}; give the same echoes"
        )


def _check_grids(data: Data) -> None:
    images = {str(key): value for key, value in data.items() if isinstance(value, MetaTensor)}
    reference = next((key for key in (keys.MAGNITUDE, *_FIELDS) if key in images), None)
    if reference is None:
        return
    title = image_name(reference, images[reference])
    for key, image in images.items():
        try:
            check_same_grid(image_name(key, image), image, title, images[reference])
        except ValueError as error:
            if key not in _OTHER_GRIDS:
                raise InputError(str(error)) from error
            data[keys.NOTES].append(f"{key} is on another grid than {reference} and was interpolated to it")


def _notes(scan: RawScan, data: Data) -> list[str]:
    notes = []
    reference = next(data[key] for key in (keys.MAGNITUDE, *_FIELDS) if key in data)
    if len(data.get(keys.ECHO_TIMES_S, (0, 0))) == 1 and keys.R2STAR not in data:
        notes.append("there is one echo only: the field can be fitted, R2* cannot; give a map of it with --r2star")
    if keys.PHASE in data and scan.vendor is None:
        notes.append("the vendor is not known (no Manufacturer, or another): the sign of its phase has to be assumed")
    if not reference.meta[HAS_ORIENTATION]:
        title = image_name("the image", reference)
        notes.append(f"{title} does not say how the head lies in the scanner: give --b0_direction if it is oblique")
    deobliqued = deobliqued_note(reference.affine.numpy(), scan.sidecar_orientation)
    return notes + ([deobliqued] if deobliqued else [])
