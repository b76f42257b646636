"""Images of any format as tensors: NIfTI and MGH by nibabel, every other format by ITK.

ITK gives an affine in LPS+, the coordinates of DICOM; the world here is RAS+:

    A_RAS = diag(-1, -1, 1, 1) A_LPS
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import itk
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError, SpatialImage
from torch import Tensor

from custom_transforms.checks import HAS_ORIENTATION, InputError, user_input
from custom_transforms.file_guard import check_image_file, check_values
from custom_transforms.transforms.geometry import check_same_grid, voxel_size_from_affine

_NIBABEL_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz")
_SCALAR_PIXELS = ("scalar", "vector", "variable_length_vector")  # NRRD keeps echoes as the components of a vector
_COLOUR_COMPONENTS = ("unsigned_char",)  # MetaImage does not tell colours from vectors
_DIMENSIONS = 3


@dataclass(frozen=True)
class Volumes:
    """What a file holds.

    Attributes:
        values: (N, X, Y, Z), float32 or complex64.
        affine: (4, 4), voxel indices to world coordinates (RAS+) in mm.
        has_orientation: whether the header says how the axes lie in the scanner.
    """

    values: np.ndarray
    affine: np.ndarray
    has_orientation: bool


def _real_or_complex(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        with np.errstate(over="ignore"):
            return array.astype(np.complex64)
    if array.dtype.kind not in "iufb":
        raise InputError(f"{name} holds {array.dtype} values, such as colours; store real or complex numbers")
    with np.errstate(over="ignore"):  # infinite values are counted and refused later
        return array.astype(np.float32)


def _volumes_first(name: str, array: np.ndarray) -> np.ndarray:
    """Turn (X, Y, Z), (X, Y, Z, N) or (X, Y, Z, 1, N) into (N, X, Y, Z)."""
    extra = tuple(size for size in array.shape[_DIMENSIONS:] if size > 1)
    if len(extra) > 1:
        raise InputError(f"{name} has shape {array.shape}; store at most one axis, the echoes, after the spatial three")
    if array.ndim < _DIMENSIONS or min(array.shape[:_DIMENSIONS]) < 2:
        raise InputError(f"{name} has shape {array.shape}, a single slice; give the whole volume")
    return np.moveaxis(array.reshape(*array.shape[:_DIMENSIONS], -1), -1, 0)


def _read_nibabel(name: str, path: str) -> Volumes:
    try:
        with LoggingOutputSuppressor(), np.errstate(over="ignore", invalid="ignore"):  # said below, in one line
            image = nib.load(path)
            if not isinstance(image, SpatialImage):
                raise ImageFileError
            stored = np.asanyarray(image.dataobj)
    except HeaderDataError as error:
        raise InputError(f"{name} has a header that cannot be used: {error}; write the file anew") from error
    except (ImageFileError, OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{name} cannot be read; it is damaged, cut short or of another format") from error
    values = _volumes_first(name, _real_or_complex(name, stored))
    has_orientation = not isinstance(image, nib.AnalyzeImage)  # which cannot say it
    if isinstance(image, nib.Nifti1Pair):
        has_orientation = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    return Volumes(values, np.asarray(image.affine, dtype=np.float64), has_orientation)


def _ras_affine(image: Any) -> np.ndarray:
    """Give the affine of an ITK image; axes beyond the third are not of space."""
    space = slice(_DIMENSIONS)
    lps = np.eye(4)
    lps[space, space] = itk.array_from_matrix(image.GetDirection())[space, space] * list(image.GetSpacing())[space]
    lps[space, 3] = list(image.GetOrigin())[space]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _read_itk(name: str, path: str) -> Volumes:
    reader = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise InputError(f"{name} is of no format that nibabel or ITK knows; give NIfTI, NRRD, MetaImage or DICOM")
    try:
        reader.SetFileName(path)
        reader.ReadImageInformation()
        pixel = reader.GetPixelTypeAsString(reader.GetPixelType())
        component = reader.GetComponentTypeAsString(reader.GetComponentType())
        if pixel not in _SCALAR_PIXELS or (pixel != "scalar" and component in _COLOUR_COMPONENTS):
            raise InputError(f"{name} holds {component} values as {pixel}, such as colours; store real numbers")
        shape = tuple(int(reader.GetDimensions(axis)) for axis in range(reader.GetNumberOfDimensions()))
        with user_input():
            check_values(name, (*shape, int(reader.GetNumberOfComponents())), int(reader.GetComponentSize()))
        kind = itk.Image if pixel == "scalar" else itk.VectorImage
        file = itk.ImageFileReader[kind[itk.F, reader.GetNumberOfDimensions()]].New(FileName=path)
        file.Update()
        image = file.GetOutput()
    except (RuntimeError, KeyError, TypeError) as error:  # the latter two of a number of axes that ITK lacks
        raise InputError(f"{name} cannot be read; it is damaged, cut short or of another format") from error
    stored = itk.array_from_image(image)  # (N, Z, Y, X), (Z, Y, X) or, of vectors, (Z, Y, X, N)
    if image.GetNumberOfComponentsPerPixel() > 1:
        stored = np.moveaxis(stored, -1, 0)
    values = _volumes_first(name, _real_or_complex(name, stored).transpose())
    return Volumes(values, _ras_affine(image), has_orientation=True)


def read_image(key: str, path: str) -> Volumes:
    """Read an image of three dimensions, or of four of which the last counts volumes.

    Scale and offset of the header are applied; where they are NaN or 0 they are unset.

    Args:
        key: what the image is, for error messages.
        path: .nii, .nii.gz, .mgz, or what ITK reads: .nrrd, .mha, a DICOM file of several frames.

    Returns:
        Values, affine, and whether the affine is known.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, is a single slice, has too many axes, or an affine that is sheared or no
            geometry at all.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{key}: there is no file {path}; check the path")
    name = f"{key} ({path})"
    read = _read_nibabel if path.lower().endswith(_NIBABEL_ENDINGS) else _read_itk
    if read is _read_nibabel:
        with user_input():
            check_image_file(key, path)
    volumes = read(name, path)
    columns = np.linalg.norm(volumes.affine[:_DIMENSIONS, :_DIMENSIONS], axis=0)
    if not (np.isfinite(volumes.affine).all() and (columns > 0).all()):
        raise InputError(f"{name} has a header without voxel sizes or position; repair its affine, or convert it anew")
    try:
        voxel_size_from_affine(volumes.affine)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    return volumes


def as_meta_tensor(volumes: Volumes, path: str) -> MetaTensor:
    """Give volumes as a tensor (N, X, Y, Z) with affine and path."""
    meta = {"filename_or_obj": path, HAS_ORIENTATION: volumes.has_orientation}
    values = torch.from_numpy(np.ascontiguousarray(volumes.values))
    return MetaTensor(values, affine=torch.from_numpy(volumes.affine), meta=meta)


def with_values(values: Tensor, reference: MetaTensor) -> MetaTensor:
    """Give values (N, X, Y, Z) with the affine and the metadata of a reference."""
    meta = {key: value for key, value in reference.meta.items() if key != MetaKeys.AFFINE}
    return MetaTensor(values, affine=reference.affine.clone(), meta=meta)


def read_echoes(key: str, paths: Sequence[str]) -> MetaTensor:
    """Read echoes from one file each, or from one file with an axis of echoes.

    Args:
        key: what the echoes are, for error messages.
        paths: the files.

    Returns:
        (E, X, Y, Z), float32 or complex64, with the first file's affine and path.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a file cannot be used, holds several volumes beside other files, or lies on another grid.
    """
    echoes = [as_meta_tensor(read_image(key, path), path) for path in paths]
    for path, echo in zip(paths, echoes, strict=True):
        if len(paths) > 1 and len(echo) > 1:
            raise InputError(
                f"{key} ({path}) holds {len(echo)} volumes and there are {len(paths)} files; "
                "give one volume a file, or one file with all echoes"
            )
        try:
            check_same_grid(f"{key} ({path})", echo, f"{key} ({paths[0]})", echoes[0])
        except ValueError as error:
            raise InputError(str(error)) from error
    return with_values(torch.cat([echo.as_tensor() for echo in echoes]), echoes[0])
