"""Is the input of a reconstruction usable? What cannot be used raises :class:`InputError`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from custom_transforms.file_guard import check_image_file
from custom_transforms.keys import LOCAL_FIELD, MAGNITUDE, MASK, R2PRIME, R2STAR
from custom_transforms.transforms.base import image_name
from custom_transforms.transforms.geometry import check_same_grid, voxel_size_from_affine

RATE_NAMES = {R2PRIME: "R2'", R2STAR: "R2*"}
HAS_ORIENTATION = "has_orientation"
"""Metadata of :func:`read_map`: whether the header says how the axes lie in the scanner."""


class InputError(ValueError):
    """Input that its user can correct; the message names what is wrong and the remedy."""


@contextmanager
def user_input() -> Iterator[None]:
    """Mark the ValueErrors of settings that a user chose as :class:`InputError`."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def read_map(key: str, path: str) -> MetaTensor:
    """Read a NIfTI file of three dimensions; a magnitude may have a fourth, the echoes.

    Args:
        key: what the map is, for error messages.
        path: .nii or .nii.gz.

    Returns:
        (1, X, Y, Z), or (echoes, X, Y, Z), float32 with the file's affine and path.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a readable NIfTI file of that many dimensions with real numbers.
    """
    with user_input():
        check_image_file(key, path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise ImageFileError
        if image.get_data_dtype().kind not in "iuf":
            raise InputError(f"{key} ({path}) holds {image.get_data_dtype()} values; store real numbers")
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    except InputError:
        raise
    except (
        ImageFileError,
        HeaderDataError,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        raise InputError(f"{key} ({path}) cannot be read as NIfTI; it is damaged or of another format") from error
    if key == MAGNITUDE and values.ndim == 4:
        values = np.moveaxis(values, -1, 0)
    elif values.ndim == 3:
        values = values[None]
    else:
        raise InputError(f"{key} ({path}) must have three dimensions, got shape {values.shape}; store one volume")
    has_orientation = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    meta = {"filename_or_obj": path, HAS_ORIENTATION: has_orientation}
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(image.affine), meta=meta)


def rate_key(maps: Mapping[str, object]) -> str | None:
    """Say which of R2' and R2* is among maps or files, by its key; None if neither is."""
    return next((key for key in RATE_NAMES if key in maps), None)


def check_maps(maps: Mapping[str, MetaTensor]) -> None:
    """Refuse maps that cannot be reconstructed.

    Args:
        maps: local_field and mask, and where they are given r2prime or r2star, and magnitude, as :func:`read_map` gives
            them.

    Raises:
        InputError: grids that differ, a single slice, a sheared affine, an empty mask, NaN, or a map without content.
    """
    field, mask = maps[LOCAL_FIELD], maps[MASK]
    with user_input():
        voxel_size_from_affine(field.affine)
        for key, image in maps.items():
            check_same_grid(image_name(key, image), image, image_name(LOCAL_FIELD, field), field)
    if min(field.shape[1:]) < 2:
        raise InputError(f"{image_name(LOCAL_FIELD, field)} is a single slice; give the whole volume")
    _check_finite(MASK, mask, torch.ones_like(mask.as_tensor(), dtype=torch.bool), "store 0 and 1 only")
    inside = mask.as_tensor() > 0.5
    if not inside.any():
        raise InputError(f"{image_name(MASK, mask)} is empty; it must be 1 in the brain and 0 outside")
    for key in maps.keys() - {MASK}:
        within = inside.expand(maps[key].shape)
        _check_finite(key, maps[key], within, "take these voxels out of the mask or fill them")
        values = maps[key].as_tensor()[within]
        if values.min() == values.max():
            name = image_name(key, maps[key])
            raise InputError(f"{name} is {float(values[0]) + 0.0:g} everywhere in the mask; give the measured map")


def _check_finite(key: str, image: MetaTensor, inside: Tensor, remedy: str) -> None:
    count = int((~image.as_tensor()[inside].isfinite()).sum())
    if count:
        where = "" if key == MASK else " inside the mask"
        raise InputError(f"{image_name(key, image)} has {count} NaN or infinite values{where}; {remedy}")
