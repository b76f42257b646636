"""Is an uploaded file one that this server takes? Read bounded, so that no file can fill memory or disk."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from typing import BinaryIO

import nibabel as nib
from nibabel.spatialimages import HeaderDataError

MAX_VALUES = 100_000_000
"""Values of all maps of a case together: three maps of 320 x 320 x 320."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.nii(\.gz)?")
_HEADER_BYTES = {nib.Nifti1Header: 348, nib.Nifti2Header: 540}
_MAX_OFFSET = 1 << 20  # bytes before the data; header extensions are small
_CHUNK = 1 << 20


def check_upload(stream: BinaryIO, name: str, *, max_values: int = MAX_VALUES) -> None:
    """Read an upload once, from its header to its last value, and go back to its start.

    Args:
        stream: the file, seekable.
        name: its name as the client gives it.
        max_values: of all maps together.

    Raises:
        ValueError: a name with anything but letters, digits, - and _, another format, a file that is truncated or
            holds more than its header says, or too many values.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"the file's name must be letters, digits, - and _, then .nii or .nii.gz, got {name[:100]!r}")
    try:
        reader = gzip.GzipFile(fileobj=stream, mode="rb") if name.endswith(".gz") else stream
        expected = _data_end(reader, max_values)
        found = _length(reader, expected)
    except (OSError, EOFError, zlib.error, HeaderDataError, OverflowError) as error:
        raise ValueError(f"{name} cannot be read as NIfTI; it is damaged, truncated or of another format") from error
    if found < expected:
        raise ValueError(f"{name} is truncated: {found} bytes of {expected}; upload the whole file")
    if found > expected:
        raise ValueError(f"{name} holds more than its header says; write it again")
    stream.seek(0)


def _data_end(reader: BinaryIO | gzip.GzipFile, max_values: int) -> int:
    """Check the header of an open file, and give the byte behind the last value."""
    content = reader.read(max(_HEADER_BYTES.values()))
    kind = next((kind for kind in _HEADER_BYTES if kind.may_contain_header(content)), None)
    if kind is None or len(content) < _HEADER_BYTES[kind]:
        raise EOFError
    header = kind.from_fileobj(io.BytesIO(content[: _HEADER_BYTES[kind]]), check=True)
    shape, dtype = tuple(int(size) for size in header.get_data_shape()), header.get_data_dtype()
    if len(shape) != 4 or min(shape) < 2 or dtype.kind not in "iuf":
        raise ValueError(f"expected one 4-D volume of real numbers, got shape {shape} and {dtype}; see the README")
    if math.prod(shape) > max_values:
        raise ValueError(f"shape {shape} has more than {max_values} values; crop the maps to the head")
    offset = float(header["vox_offset"])
    if not _HEADER_BYTES[kind] <= offset <= _MAX_OFFSET:
        raise HeaderDataError
    return int(offset) + math.prod(shape) * dtype.itemsize


def _length(reader: BinaryIO | gzip.GzipFile, expected: int) -> int:
    """Count the bytes of a file, to one chunk behind the expected end at most."""
    reader.seek(0)
    found = 0
    while found <= expected and (chunk := reader.read(_CHUNK)):
        found += len(chunk)
    return found
