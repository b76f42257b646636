"""Raw data as people have it: a BIDS dataset, a DICOM folder, or files named one by one.

scan           RawScan: the files of one scan and its acquisition
loading        load_scan: those files as the dictionary that preprocessing takes, checked
bids           find_bids, with bids_layout on pybids
dicom          convert_dicom, with dicom_headers on pydicom and dcm2niix
explicit       explicit_scan
assembly       from files and sidecars to a scan
headers        what sidecars say, and is it possible?
images         reading of any format
content        are the numbers those of a measurement?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from custom_transforms.checks import InputError

from .bids import Labels, find_bids
from .dicom import convert_dicom
from .explicit import explicit_scan
from .loading import load_scan
from .scan import MAPS, RawScan

__all__ = [
    "MAPS",
    "RawScan",
    "convert_dicom",
    "explicit_scan",
    "find_bids",
    "find_scans",
    "load_scan",
]

_PREAMBLE = 128  # bytes before the letters DICM
_IMAGES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz")


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def find_scans(
    source: str | Path,
    work: Path,
    *,
    participant_label: Labels = None,
    session: Labels = None,
    derivatives: Sequence[str | Path] = (),
    series: int | None = None,
) -> list[RawScan]:
    """Find the scans of a folder, be it a BIDS dataset or DICOM files.

    Args:
        source: the folder.
        work: where converted DICOM images go.
        participant_label: of a BIDS dataset, see :func:`find_bids`.
        session: likewise.
        derivatives: likewise.
        series: of DICOM files, see :func:`convert_dicom`.

    Returns:
        The scans, at least one.

    Raises:
        InputError: it is neither; the message says what was seen.
    """
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a BIDS or DICOM folder, or name files with --magnitude and --phase")
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    is_bids = any(folder.glob("sub-*/")) or (folder / "dataset_description.json").is_file()
    if is_bids or folder.name.startswith(("sub-", "ses-")):
        return find_bids(folder, participant_label, session, derivatives=derivatives)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if any(map(_is_dicom, files)):
        return [convert_dicom(folder, work, series=series, name=folder.name)]
    images = [path.name for path in files if path.name.lower().endswith(_IMAGES)]
    if images:
        seen = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
        raise InputError(f"{folder} has images ({seen}) and is no BIDS dataset; name them with --magnitude and --phase")
    raise InputError(f"{folder} has neither BIDS subjects nor DICOM files, {len(files)} files in all; check the path")
