"""What a folder of DICOM files holds: series, their parts and echoes, from the headers alone.

Which part of the complex signal an image is, vendors say in different places: ImageType (0008,0008) of Siemens, Philips
and UIH, ComplexImageComponent (0008,9208) of enhanced files such as those of Canon, and (0043,102F) of GE.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from .headers import vendor_of

_TAGS: list[Any] = [
    "SOPClassUID",
    "ImageType",
    "ComplexImageComponent",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ScanningSequence",
    "EchoPulseSequence",
    "EchoTime",
    "Manufacturer",
    "Rows",
    "Columns",
    "ImageOrientationPatient",
    "Modality",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    0x0043102F,
]
_UNREADABLE = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)
"""What pydicom raises of a file that is damaged, or made to be."""

_GE_PART = 0x0043102F
_GE_PARTS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
_PART_WORDS = {
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
    "M_FFE": "magnitude",
    "M_SE": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}


@dataclass(frozen=True)
class Series:
    """One series of images.

    Attributes:
        number: SeriesNumber, 0 if there is none.
        description: SeriesDescription.
        files: its files.
        echo_times_ms: of each part, "magnitude", "phase", "real" or "imaginary", in order.
        sequences: words of ScanningSequence or EchoPulseSequence.
        grid: rows, columns and orientation, which parts of one scan share.
    """

    number: int
    description: str
    files: tuple[Path, ...]
    echo_times_ms: dict[str, tuple[float, ...]]
    sequences: frozenset[str]
    grid: tuple[Any, ...]

    @property
    def is_spin_echo(self) -> bool:
        """Whether the echoes are refocused by pulses."""
        return bool(self.sequences & {"SE", "SPIN"}) and not self.sequences & {"GR", "GRADIENT", "EP", "BOTH"}

    @property
    def is_gradient_echo(self) -> bool:
        """Whether the echoes are refocused by gradients; sequences that say nothing count."""
        return not self.sequences or bool(self.sequences & {"GR", "GRADIENT", "RM"})

    def __str__(self) -> str:
        parts = ", ".join(f"{len(times)} x {part}" for part, times in sorted(self.echo_times_ms.items()))
        return f"{self.number} ({self.description or 'no description'}: {parts})"


def _words(value: Any) -> list[str]:
    listed = [] if value is None else [value] if isinstance(value, str) else value
    return [str(word).strip().upper() for word in listed]


def part_of(header: Dataset) -> str:
    """Say which part of the complex signal an image is; magnitude if nothing says otherwise."""
    if vendor_of(header.get("Manufacturer")) == "GE" and _GE_PART in header:
        value = header[_GE_PART].value
        try:
            return _GE_PARTS.get(int(value[0] if isinstance(value, Sequence) else value), "magnitude")
        except (TypeError, ValueError):
            pass
    words = _words(header.get("ImageType"))[2:] + _words(header.get("ComplexImageComponent"))
    parts = [_PART_WORDS[word] for word in words if word in _PART_WORDS]
    return next((part for part in parts if part != "magnitude"), "magnitude")


def _frames(header: Dataset) -> Iterator[tuple[str, float | None]]:
    """Give part and echo time in ms of every frame; a classic file has one."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        time = header.get("EchoTime")
        yield part_of(header), None if time is None else round(float(time), 3)
        return
    for group in groups:
        kind = group.get("MRImageFrameTypeSequence") or [Dataset()]
        frame = Dataset()
        frame.ImageType = kind[0].get("FrameType") or header.get("ImageType")
        frame.ComplexImageComponent = kind[0].get("ComplexImageComponent") or header.get("ComplexImageComponent")
        frame.Manufacturer = header.get("Manufacturer")
        echo = group.get("MREchoSequence") or [Dataset()]
        time = echo[0].get("EffectiveEchoTime")
        yield part_of(frame), None if time is None else round(float(time), 3)


def _headers(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            header.get("ImageType")
        except _UNREADABLE:
            continue
        if header.get("Modality", "MR") == "MR" and "Rows" in header:
            yield path, header


def read_series(folder: str | Path) -> list[Series]:
    """Read the headers of a folder and of those in it.

    Args:
        folder: with DICOM files of any name.

    Returns:
        The MR series, by their numbers.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    first: dict[str, Dataset] = {}
    times: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for path, header in _headers(Path(folder)):
        uid = str(header.get("SeriesInstanceUID"))
        files[uid].append(path)
        first.setdefault(uid, header)
        for part, time in _frames(header):
            times[uid][part] |= {time} if time else set()
    series = []
    for uid, header in first.items():
        sequences = {*_words(header.get("ScanningSequence")), *_words(header.get("EchoPulseSequence"))}
        orientation = tuple(round(float(value), 2) + 0.0 for value in header.get("ImageOrientationPatient") or ())
        series.append(
            Series(
                number=int(header.get("SeriesNumber") or 0),
                description=str(header.get("SeriesDescription") or ""),
                files=tuple(files[uid]),
                echo_times_ms={part: tuple(sorted(found)) for part, found in times[uid].items()},
                sequences=frozenset(sequences),
                grid=(header.get("Rows"), header.get("Columns"), orientation),
            )
        )
    return sorted(series, key=lambda one: one.number)
