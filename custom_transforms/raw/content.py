"""Are the numbers of an image those of a measurement? And the one map that may come on a grid of its own."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys

from custom_transforms import keys
from custom_transforms.checks import InputError
from custom_transforms.registration import resample
from custom_transforms.transforms.base import image_name
from custom_transforms.transforms.geometry import check_same_grid

from .images import with_values

_MAY_BE_CONSTANT = (keys.MASK,)
_MAGNITUDES = (keys.MAGNITUDE, keys.SPIN_ECHO)
_MOST_NEGATIVE = 0.05  # of the voxels: interpolation makes some
_LARGEST, _FAINTEST = 1e15, 1e-15  # squares of signals beyond these are too much for single precision
_FEWEST_VOXELS = 3  # along an axis: the cubic splines of ITK read beyond the memory of two
_BINARY_TOLERANCE = 1e-3  # rounding of masks stored with a scale factor


def finite(key: str, image: MetaTensor, mask: MetaTensor | None, notes: list[str], *, force: bool) -> MetaTensor:
    """Replace NaN and infinite values by 0 where they do no harm, outside of the mask, or where the user insists.

    Args:
        key: what the image is.
        image: (N, X, Y, Z).
        mask: (1, X, Y, Z) of the user, if there is one.
        notes: gets a sentence if anything was replaced.
        force: also without a mask and inside of it.

    Returns:
        The image, without such values.

    Raises:
        InputError: there are some, with their number.
    """
    values = image.as_tensor()
    bad = ~values.isfinite()
    count = int(bad.sum())
    if not count:
        return image
    within = count
    if mask is not None and key != keys.MASK and mask.shape[1:] == values.shape[1:]:
        within = int((bad & (mask.as_tensor() > 0)).sum())
    if within and not force:
        where = "" if mask is None or key == keys.MASK else " inside the mask"
        remedy = "fill them, or give a mask without them"
        raise InputError(f"{image_name(key, image)} has {within} NaN or infinite values{where}; {remedy}")
    notes.append(f"{image_name(key, image)} had {count} NaN or infinite values, which were set to 0")
    return with_values(values.masked_fill(bad, 0), image)


def binary(mask: MetaTensor, notes: list[str], *, force: bool) -> MetaTensor:
    """Refuse a mask that is not of 0 and 1, or threshold it at 0.5 where the user insists.

    Args:
        mask: (1, X, Y, Z).
        notes: gets a sentence if it was thresholded.
        force: threshold it.

    Returns:
        The mask, 0 or 1 exactly.

    Raises:
        InputError: other values, or no voxel above 0.5.
    """
    name, values = image_name(keys.MASK, mask), mask.as_tensor()
    inside = values > 0.5
    if not bool(inside.any()):
        raise InputError(f"{name} is empty; it must be 1 in the brain and 0 outside")
    if float(torch.minimum(values.abs(), (values - 1).abs()).max()) > _BINARY_TOLERANCE:
        if not force:
            remedy = "store 1 inside and 0 outside, or --force to cut it at 0.5"
            raise InputError(f"{name} has values other than 0 and 1; {remedy}")
        notes.append(f"{name} has values other than 0 and 1; it was cut at 0.5")
    return with_values(inside.to(values.dtype), mask)


def check_content(key: str, image: MetaTensor) -> None:
    """Refuse a volume that is the same everywhere (a mask may be 1) or out of range, and magnitudes that are negative.

    Raises:
        InputError: they are, with the value.
    """
    if key in _MAGNITUDES and float((image.as_tensor() < 0).float().mean()) > _MOST_NEGATIVE:
        raise InputError(f"{image_name(key, image)} has negative values; is it a phase or a real part?")
    for index, volume in enumerate(image.as_tensor()):
        low, high = float(volume.min()), float(volume.max())
        echo = f", echo {index + 1}," if len(image) > 1 else ""
        if max(-low, high) > _LARGEST or (key in _MAGNITUDES and 0 < high < _FAINTEST):
            raise InputError(f"{image_name(key, image)}{echo} runs from {low:g} to {high:g}; give it in another unit")
        if low == high and (key not in _MAY_BE_CONSTANT or high == 0):
            raise InputError(f"{image_name(key, image)}{echo} is {low:g} everywhere; give the measured image")


def on_grid_of(reference: MetaTensor, key: str, image: MetaTensor) -> MetaTensor:
    """Interpolate a map of rates to another grid by the affines, unless it lies on it.

    Args:
        reference: (N, X, Y, Z) on that grid.
        key: what the map is.
        image: (1, X', Y', Z'), >= 0.

    Returns:
        The map, (1, X, Y, Z); 0 beyond its edge.

    Raises:
        InputError: it is too thin for that, or lies elsewhere.
    """
    name, (x, y, z) = image_name(key, image), reference.shape[1:]
    try:
        check_same_grid(name, image, "", reference)
        return image
    except ValueError:
        if min(image.shape[1:]) < _FEWEST_VOXELS:
            raise InputError(f"{name} is too thin to be interpolated; resample it to the grid of the rest") from None
    volumes = (image.as_tensor()[0], torch.ones(image.shape[1:]))
    values, covered = (resample(volume, image.affine, reference.affine, (x, y, z)) for volume in volumes)
    if not bool((covered > 0.5).any()):
        raise InputError(f"{name} lies beside the other images; check its header, or resample it to their grid")
    meta = {entry: value for entry, value in image.meta.items() if entry != MetaKeys.AFFINE}
    return MetaTensor(values.clamp(min=0)[None], affine=reference.affine.clone(), meta=meta)
