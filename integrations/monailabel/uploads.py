"""Is an uploaded file a case? Looked at before MONAI Label sees it."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from typing import BinaryIO

import nibabel as nib

from custom_transforms.file_guard import check_image_file

MAX_VALUES = 100_000_000
"""Values of all maps of a case together: three maps of 320 x 320 x 320."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.nii(?:\.gz)?)")


def check_upload(stream: BinaryIO, name: str, *, max_values: int = MAX_VALUES) -> None:
    """Compare an upload with its header, in a copy on disk and in little memory, and go back to its start.

    Args:
        stream: the file, seekable.
        name: its name as the client gives it.
        max_values: of all maps together.

    Raises:
        ValueError: a name with anything but letters, digits, - and _, another format, a file that does not hold what
            its header says, one that is no 4-D volume of real numbers, or too many values.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"the file's name must be letters, digits, - and _, then .nii or .nii.gz, got {name[:100]!r}")
    with tempfile.NamedTemporaryFile(suffix=match[1]) as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        stream.seek(0)
        try:
            check_image_file(name, copy.name)
        except ValueError as error:
            raise ValueError(str(error).replace(f" ({copy.name})", "")) from None
        image = nib.load(copy.name)
        shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 4 or min(shape) < 2 or dtype.kind not in "iuf":
        raise ValueError(f"{name} must be one 4-D volume of real numbers, got shape {shape} and {dtype}")
    if math.prod(shape) > max_values:
        raise ValueError(f"{name} has more than {max_values} values, shape {shape}; crop the maps to the head")
