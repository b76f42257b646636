"""Folders of a machine in a file: what must not leave it with a bundle."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

_USUAL = re.compile(rb"(?<![\w.~/}-])/(?:home|root|Users|work|workspace|mnt|scratch)/\w[\w./-]*")


def _contents(file: Path) -> Iterator[bytes]:
    """Give the content of a file, or of everything in it if it is an archive such as a weights file."""
    if not zipfile.is_zipfile(file):
        yield file.read_bytes()
        return
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            yield record.filename.encode()
            yield archive.read(record)


def _own() -> re.Pattern[bytes]:
    """Match the folders of this machine: the home, that of temporary files, and that of this package."""
    folders = (Path.home(), Path(tempfile.gettempdir()), Path(__file__).resolve().parents[2])
    names = sorted({str(folder) for folder in folders if folder != Path(folder.anchor)})
    return re.compile(rb"(?<![\w.~/}-])(?:" + b"|".join(re.escape(name).encode() for name in names) + rb")/\w[\w./-]*")


def machine_paths(file: Path) -> list[str]:
    """Find folders of a machine in a file.

    Args:
        file: of any kind; archives (zip, .npz, PyTorch's .pt and .ts) are looked into.

    Returns:
        What was found, in order.
    """
    patterns = _USUAL, _own()
    found = (match for content in _contents(file) for pattern in patterns for match in pattern.findall(content))
    return list(dict.fromkeys(match.decode(errors="replace") for match in found))
