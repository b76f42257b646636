"""Scans of a DICOM folder: the multi-echo series are found by their headers and converted by dcm2niix.

References:
    Li et al. 2016, doi:10.1016/j.jneumeth.2016.03.001 (dcm2niix).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dcm2niix

from custom_transforms.checks import InputError

from .assembly import SPIN_ECHO, assemble
from .dicom_headers import Series, read_series
from .headers import read_sidecar
from .scan import RawScan

_ENDINGS = {"ph": "phase", "real": "real", "imaginary": "imaginary"}
_ENDING = re.compile(r"_(ph|real|imaginary)[a-z]*$")
_FEWEST_SLICES = 2


@dataclass(frozen=True)
class Candidate:
    """Series that together are one scan of gradient echoes.

    Attributes:
        series: one with all parts, or those of magnitude and phase, or of real and imaginary parts.
        echoes: how many echoes.
    """

    series: tuple[Series, ...]
    echoes: int

    def __str__(self) -> str:
        return " + ".join(map(str, self.series))


def _parts(series: Sequence[Series]) -> dict[str, tuple[float, ...]]:
    return {part: times for one in series for part, times in one.echo_times_ms.items()}


def _is_scan(series: Sequence[Series]) -> bool:
    parts = _parts(series)
    for first, second in (("magnitude", "phase"), ("real", "imaginary")):
        if first in parts and parts.get(first) == parts.get(second) and parts[first]:
            return True
    return False


def _nearest(series: Series, others: Sequence[Series]) -> list[Series]:
    """Sort the series that may belong to one: those before it first, the next in number first."""
    fitting = [other for other in others if other is not series and other.grid == series.grid]
    return sorted(fitting, key=lambda other: (other.number > series.number, abs(other.number - series.number)))


def find_candidates(series: Sequence[Series]) -> list[Candidate]:
    """Find the scans of gradient echoes that have a phase; those of several echoes, if there are any.

    A phase (or imaginary part) in a series of its own belongs to the nearest series before it of the same grid and
    echo times.
    """
    gradient = [one for one in series if one.is_gradient_echo]
    found: list[tuple[Series, ...]] = []
    for one in gradient:
        if _is_scan([one]):
            found.append((one,))
        elif {"phase", "imaginary"} & one.echo_times_ms.keys():
            partner = next((other for other in _nearest(one, gradient) if _is_scan([other, one])), None)
            found += [(partner, one)] if partner else []
    candidates = [Candidate(group, max(map(len, _parts(group).values()))) for group in found]
    return [one for one in candidates if one.echoes > 1] or candidates


def choose_candidate(folder: str | Path, series: Sequence[Series], number: int | None) -> Candidate:
    """Choose the scan: the only one, or that with the series of a number.

    Raises:
        InputError: none, several, or none of that number.
    """
    candidates = find_candidates(series)
    seen = "; ".join(map(str, series))
    if not candidates:
        raise InputError(
            f"{folder} has no gradient echoes with a phase, only series {seen}; export the phase images too"
        )
    listed = "; ".join(map(str, candidates))
    if number is not None:
        candidates = [one for one in candidates if number in [part.number for part in one.series]]
        if not candidates:
            raise InputError(f"{folder} has no scan in series {number}; give --series with a number of: {listed}")
    if len(candidates) > 1:
        first = candidates[0].series[0].number
        raise InputError(f"{folder} has {len(candidates)} scans, series {listed}; choose one, such as --series={first}")
    return candidates[0]


def _convert(series: Sequence[Series], work: Path) -> list[Path]:
    """Convert some series; give the images."""
    source, target = work / "source", work / "images"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    files = [file for one in series for file in one.files]
    for index, file in enumerate(files):
        (source / f"{index:06d}.dcm").symlink_to(file.absolute())
    options = ["-b", "y", "-ba", "y", "-z", "n", "-w", "2", "-i", "n", "-f", "%s_%e", "-o", str(target)]
    done = subprocess.run([dcm2niix.bin, *options, str(source)], capture_output=True, text=True, check=False)
    shutil.rmtree(source)
    images = sorted(target.glob("*.nii"))
    if not images:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        reason = lines[-1].strip() if lines else f"it ended with code {done.returncode}"
        numbers = " and ".join(str(one.number) for one in series)
        raise InputError(
            f"dcm2niix cannot convert series {numbers}: {reason}; convert them and give --magnitude, --phase"
        )
    return images


def _part_of_image(image: Path) -> str:
    ending = _ENDING.search(image.stem)
    return _ENDINGS[ending.group(1)] if ending else "magnitude"


def _by_part(images: Sequence[Path]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for image in images:
        parts.setdefault(_part_of_image(image), []).append(str(image))
    if "phase" in parts and "magnitude" in parts:
        return {key: parts[key] for key in ("magnitude", "phase")}
    if "real" in parts and "imaginary" in parts:
        return {key: parts[key] for key in ("real", "imaginary")}
    return parts


def _spin_echo_series(series: Sequence[Series], notes: list[str]) -> Series | None:
    several = [one for one in series if one.is_spin_echo and len(one.echo_times_ms.get("magnitude", ())) > 1]
    if len(several) > 1:
        listed = "; ".join(map(str, several))
        notes.append(f"there are several spin-echo series, {listed}; none is used, name the files with --spin_echo")
        return None
    return several[0] if several else None


def convert_dicom(folder: str | Path, work: Path, *, series: int | None = None, name: str = "scan") -> RawScan:
    """Find the scan of a DICOM folder and convert it to NIfTI.

    Args:
        folder: with DICOM files of any name, of one exam or of one series.
        work: folder for the converted images, made if need be; what it holds of an earlier conversion is replaced.
        series: number of a series of the scan, where there are several scans.
        name: what its results are called.

    Returns:
        The scan; with spin echoes where there is one multi-echo spin-echo series.

    Raises:
        InputError: no scan of gradient echoes with a phase, several of them, or dcm2niix refuses.
    """
    found = read_series(folder)
    if not found:
        raise InputError(f"{folder} has no DICOM images of MR; give the folder of an exam, or files with --magnitude")
    chosen = choose_candidate(folder, found, series)
    numbers = " and ".join(str(one.number) for one in chosen.series)
    notes = [f"converted from DICOM series {numbers} by dcm2niix {dcm2niix.__version__}"]
    files = _by_part(_convert(chosen.series, work / "gradient_echo"))
    _check_converted(chosen, files)
    spin = _spin_echo_series(found, notes)
    if spin is not None:
        parts = _by_part(_convert([spin], work / SPIN_ECHO))
        files[SPIN_ECHO] = parts.get("magnitude", [])
        notes.append(f"the spin echoes are series {spin}")
    sidecars = {key: [read_sidecar(path) for path in paths] for key, paths in files.items()}
    return assemble(name, files, sidecars, notes=notes)


def _check_converted(chosen: Candidate, files: dict[str, list[str]]) -> None:
    counts = {part: len(paths) for part, paths in files.items()}
    if any(count != chosen.echoes for count in counts.values()):
        made = ", ".join(f"{count} x {part}" for part, count in counts.items())
        raise InputError(
            f"dcm2niix made {made} of series {chosen}, which has {chosen.echoes} echoes; "
            "are slices missing or repeated? Convert it and name files with --magnitude, --phase"
        )
