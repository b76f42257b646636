"""Is an image file as large as its header says, and no larger than can be read? Looked at before anything is read.

The header stands in the first bytes. What it promises,

    b = offset + values x bytes a value,

is compared with the length of the file. A compressed file is unpacked for that, piece by piece and thrown away, and
only until it exceeds b. So a small file that unpacks to a large one, an extension of the header that pretends to be
large, a cut file and one of impossible dimensions are refused with a memory of some pieces.
"""

from __future__ import annotations

import math
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO

import nibabel as nib
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHError, MGHHeader
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

LARGEST_GIB_VARIABLE = "CHISEP_LARGEST_GIB"
"""Environment variable that replaces the limit of one file."""

_LARGEST_GIB = 8.0
_SHARE_OF_MEMORY = 0.5
_GIB = 2**30
_PIECE_BYTES = 2**20
_LOADED_BYTES = 4  # of a value in memory, float32, where it is stored in fewer
_HEAD_BYTES = 540  # NIfTI-2, the longest of the headers
_LATEST_OFFSET = 2**24  # extensions of the header come before the values
_MOST_BEHIND_BYTES = 2**16  # what may follow the values: the footer of MGH, padding
_PAIR_ENDINGS = (".hdr", ".img")
_KINDS = (nib.Nifti2Header, nib.Nifti1Header)

_Promise = tuple[int, tuple[int, ...], int]  # offset, shape, bytes a value


def largest_bytes() -> int:
    """Give how many bytes the values of one file may take: 8 GiB, or half of the memory where that is less.

    The environment variable CHISEP_LARGEST_GIB replaces the limit.

    Raises:
        ValueError: the variable is not a positive number.
    """
    text = os.environ.get(LARGEST_GIB_VARIABLE)
    if text is not None:
        try:
            limit_gib = float(text)
        except ValueError:
            limit_gib = math.nan
        if not 0 < limit_gib < math.inf:
            raise ValueError(
                f"{LARGEST_GIB_VARIABLE} must be a number of GiB above 0, got {text!r}; correct or unset it"
            )
        return int(limit_gib * _GIB)
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return int(_LARGEST_GIB * _GIB)
    return min(int(_LARGEST_GIB * _GIB), int(_SHARE_OF_MEMORY * memory_bytes))


def check_values(name: str, shape: tuple[int, ...], value_bytes: int) -> None:
    """Refuse an image of impossible dimensions, or of more values than :func:`largest_bytes` allows.

    Args:
        name: how the error calls the image.
        shape: of all its axes.
        value_bytes: bytes of one value as it is stored.

    Raises:
        ValueError: it is one.
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"{name} has a header that cannot be used: its shape is {shape}; write the file anew")
    needed, limit = math.prod(shape) * max(value_bytes, _LOADED_BYTES), largest_bytes()
    if needed > limit:
        raise ValueError(
            f"{name} has the shape {shape}, which takes {needed / _GIB:.3g} GiB, and {limit / _GIB:.3g} are allowed; "
            f"is its header damaged? If not, crop it, or set {LARGEST_GIB_VARIABLE}"
        )


def check_image_file(key: str, path: str) -> None:
    """Refuse a file of NIfTI, Analyze or MGH that does not hold what its header says, or too much.

    Args:
        key: what the image is, for error messages.
        path: the file.

    Raises:
        FileNotFoundError: there is no such file, or it is a folder, a device or a pipe.
        ValueError: what is wrong with it.
    """
    if not os.path.isfile(path):  # also of names that a file system does not take
        raise FileNotFoundError(f"{key}: there is no file {path}; check the path")
    state = os.stat(path)
    _check(f"{key} ({path})", str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)  # a file is read several times on its way, and once an epoch
def _check(name: str, path: str, size: int, mtime_ns: int) -> None:
    damaged = f"{name} cannot be read as NIfTI or MGH; it is damaged, cut short or of another format"
    header, values = _files(path)
    try:
        with ImageOpener(header) as stream:
            offset, shape, value_bytes = _promise(stream.read(_HEAD_BYTES))
    except HeaderDataError as error:
        raise ValueError(f"{name} has a header that cannot be used: {error}; write the file anew") from error
    except (OSError, EOFError, zlib.error, WrapStructError, MGHError, ValueError, OverflowError, KeyError) as error:
        raise ValueError(damaged) from error
    check_values(name, shape, value_bytes)
    expected = offset + math.prod(shape) * value_bytes
    try:
        found = _length(values, expected + _MOST_BEHIND_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(damaged) from error
    if found < expected:
        raise ValueError(f"{name} cannot be read as NIfTI or MGH; it is cut short: {found} bytes of {expected}")
    if found > expected + _MOST_BEHIND_BYTES:
        raise ValueError(f"{name} has a header of shape {shape} and holds more than that; write the file anew")


def _files(path: str) -> tuple[str, str]:
    """Give the files of the header and of the values."""
    if not path.lower().endswith(_PAIR_ENDINGS):
        return path, path
    pair = nib.AnalyzeImage.filespec_to_file_map(path)
    return str(pair["header"].filename), str(pair["image"].filename)


def _promise(head: bytes) -> _Promise:
    """Read where the values begin, the shape and the bytes of a value."""
    for kind in _KINDS:
        if kind.may_contain_header(head):
            return _promise_of(kind(head[: kind.template_dtype.itemsize], check=False))
    if nib.AnalyzeHeader.may_contain_header(head):
        return _promise_of(nib.AnalyzeHeader(head[: nib.AnalyzeHeader.template_dtype.itemsize], check=False))
    if head[:4] == b"\0\0\0\1":  # MGH has a version, and no magic number
        header = MGHHeader(head[:DATA_OFFSET])
        return DATA_OFFSET, tuple(map(int, header.get_data_shape())), header.get_data_dtype().itemsize
    raise ValueError("no header that is known")


def _promise_of(header: nib.AnalyzeHeader) -> _Promise:
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _LATEST_OFFSET:
        raise HeaderDataError(f"the values begin at byte {offset:g}")
    return int(offset), tuple(map(int, header.get_data_shape())), header.get_data_dtype().itemsize


def _length(path: str, most: int) -> int:
    """Count the bytes of a file, unpacked, until there are more than ``most``."""
    if Path(path).suffix.lower() not in ImageOpener.compress_ext_map:
        return os.path.getsize(path)
    with ImageOpener(path) as stream:
        return _count(stream, most)


def _count(stream: IO[bytes] | ImageOpener, most: int) -> int:
    found = 0
    while found <= most and (piece := stream.read(_PIECE_BYTES)):
        found += len(piece)
    return found
