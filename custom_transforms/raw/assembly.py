"""From files and their sidecars to a scan: echoes in order, and what the sidecars say of the scanner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .headers import echo_times_of, scanner_of
from .scan import RawScan

GRADIENT_PARTS = ("magnitude", "phase", "real", "imaginary")
SPIN_ECHO = "spin_echo"

Sidecars = Mapping[str, Sequence[Mapping[str, Any]]]


def _by_echo_time(paths: Sequence[str], times: Sequence[float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    pairs = sorted(zip(times, paths, strict=True))
    return tuple(path for _, path in pairs), tuple(time for time, _ in pairs)


def assemble(
    name: str,
    files: Mapping[str, Sequence[str]],
    sidecars: Sidecars,
    *,
    maps: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> RawScan:
    """Make a scan of files and their sidecars.

    Where every file has its own echo time, magnitude and phase are each sorted by theirs. Else the order of the files
    counts, and :func:`load_scan` sorts them together.

    Args:
        name: of the scan.
        files: by "magnitude", "phase", "real", "imaginary" and "spin_echo"; what is not there may be left out.
        sidecars: for every file the content of its JSON file.
        maps: the user's own maps by key.
        notes: what the user should read.

    Returns:
        The scan; echo times are empty where sidecars lack them.
    """
    paths = {key: tuple(group) for key, group in files.items() if group}
    times = {key: echo_times_of(sidecars[key]) for key in paths}
    gradient = [key for key in GRADIENT_PARTS if key in paths]
    for keys in (gradient, [SPIN_ECHO] if SPIN_ECHO in paths else []):
        if all(len(times[key]) == len(paths[key]) for key in keys):
            for key in keys:
                paths[key], times[key] = _by_echo_time(paths[key], times[key])
    known = [times[key] for key in gradient if times[key]]
    described = [sidecar for key in (*gradient, SPIN_ECHO) for sidecar in sidecars.get(key, ())]
    return RawScan(
        name=name,
        **paths,  # type: ignore[arg-type]
        **scanner_of(described),
        echo_times_s=known[0] if known else (),
        phase_echo_times_s=known[1] if len(known) > 1 else (),
        spin_echo_times_s=times.get(SPIN_ECHO, ()),
        maps=dict(maps or {}),
        notes=tuple(notes),
    )
