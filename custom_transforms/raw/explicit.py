"""Scans whose files are named one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from custom_transforms.checks import InputError

from .assembly import SPIN_ECHO, assemble
from .headers import read_sidecar
from .scan import RawScan

Files = str | Sequence[str] | None


def file_list(files: Files) -> tuple[str, ...]:
    """Give files named in a list, or in one text with commas."""
    if files is None:
        return ()
    if isinstance(files, str):
        return (files,) if os.path.isfile(files) else tuple(part.strip() for part in files.split(",") if part.strip())
    return tuple(map(str, files))


def explicit_scan(
    *,
    name: str = "scan",
    magnitude: Files = None,
    phase: Files = None,
    real: Files = None,
    imaginary: Files = None,
    echo_times_s: Sequence[float] | float | None = None,
    b0_tesla: float | None = None,
    vendor: str | None = None,
    spin_echo: Files = None,
    spin_echo_times_s: Sequence[float] | float | None = None,
    maps: Mapping[str, str] | None = None,
) -> RawScan:
    """Describe a scan by its files; what is not said is taken from the JSON sidecars beside them.

    Args:
        name: what its results are called.
        magnitude: one file an echo, in a list or with commas between, or one file with all echoes; any format that
            nibabel or ITK reads. Complex numbers need no phase.
        phase: likewise.
        real: real part, instead of magnitude and phase.
        imaginary: imaginary part.
        echo_times_s: in s, in the order of the files.
        b0_tesla: main field in T.
        vendor: "GE", "Siemens", "Philips", "Canon" or "UIH".
        spin_echo: magnitude of spin echoes.
        spin_echo_times_s: in s, in the order of the files.
        maps: files of the user's own maps by key.

    Returns:
        The scan.

    Raises:
        InputError: no file is named, a vendor or map of another name, a sidecar that is not JSON.
    """
    groups = {"magnitude": magnitude, "phase": phase, "real": real, "imaginary": imaginary, SPIN_ECHO: spin_echo}
    files = {key: file_list(value) for key, value in groups.items()}
    if not any(files.values()) and not maps:
        raise InputError("no file is given; name the echoes with --magnitude and --phase")
    sidecars = {key: [read_sidecar(path) for path in paths] for key, paths in files.items()}
    scan = assemble(name, files, sidecars)
    return scan.with_settings(
        echo_times_s=echo_times_s,
        b0_tesla=b0_tesla,
        vendor=vendor,
        spin_echo_times_s=spin_echo_times_s,
        maps=maps,
    )
