"""Folders of a machine in a file: what must not leave it with a bundle."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

_USUAL = ("/home", "/root", "/Users", "/work", "/workspace", "/mnt", "/scratch")


def _contents(file: Path) -> Iterator[bytes]:
    """Give the content of a file, or of everything in it if it is an archive such as a weights file."""
    if not zipfile.is_zipfile(file):
        yield file.read_bytes()
        return
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            yield record.filename.encode()
            yield archive.read(record)


def _folders() -> list[bytes]:
    """Name the usual ones, and of this machine the home, that of temporary files and that of this package."""
    own = (Path.home(), Path(tempfile.gettempdir()), Path(__file__).resolve().parents[2])
    return sorted({f"{folder}/".encode() for folder in [*_USUAL, *map(str, own)] if folder != "/"})


def machine_paths(file: Path) -> list[str]:
    """Find folders of a machine in a file.

    Args:
        file: of any kind; archives (zip, .npz, PyTorch's .pt and .ts) are looked into.

    Returns:
        What was found.
    """
    found: dict[bytes, None] = {}
    folders = _folders()
    for content in _contents(file):
        for folder in (folder for folder in folders if folder in content):  # a search is far quicker than a pattern
            found |= dict.fromkeys(re.findall(rb"(?<![\w.~/}-])" + re.escape(folder) + rb"\w[\w./-]*", content))
    return [match.decode(errors="replace") for match in found]
