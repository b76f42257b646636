r"""The default brain mask, from the magnitude alone, for those who have none. A mask of one's own is always better.

1. Signal: root of the sum of squares over the echoes, on voxels of about 2 mm, divided by its local mean (Gaussian,
   20 mm) against the shading of coils; a threshold between noise and tissue (Otsu).
2. Core: voxels deeper than 5 mm in that, by which the bridges through skull and meninges are cut; of the pieces, the
   one with most volume near the centre.
3. Brain: the voxels with signal that lie within 7 mm of the core, without the darker rim of fluid around it; closed
   over 5 mm, holes filled.
4. The surface is brought back to the voxels of the image through its signed distance.

Lengths are in mm, so that it works alike for voxels of 0.5 to 3 mm. Beyond the border of a volume tissue goes on: slabs
and crops lose nothing there.

References:
    Otsu 1979, doi:10.1109/TSMC.1979.4310076 (threshold).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate, pad

from custom_transforms.checks import InputError
from custom_transforms.keys import FIELD_QUALITY, MAGNITUDE, MASK, NOTES, VOXEL_SIZE_MM
from custom_transforms.preprocessing.background import POOR_QUALITY
from custom_transforms.relaxometry import combine_echoes
from custom_transforms.transforms.base import image_name, to_float_tensor, with_meta_of

Array = NDArray[Any]

_WORKING_MM = 2.0
_SHADING_MM = 20.0
_CORE_DEPTH_MM = 5.0
_NEARBY_MM = 15.0
_REGROWTH = 1.4  # of the depth: corners of the brain are further from the core than its faces
_CLOSING_MM = 5.0
_CENTRE_MM = 60.0  # a piece at this distance from the centre counts 1/e
_FLUID = 0.85  # of the signal of the tissue nearby: the rim of fluid is darker
_FLUID_MM = 5.0  # thickest rim of fluid that is taken off
_NO_AIR = 0.2  # dark share of the median signal, below which a volume without air has its vessels and bone
_SMALLEST_MM3 = 1000.0
_REMEDY = "give a mask of your own with --mask"


def _threshold(signal: Array) -> float:
    """Tell tissue from noise; in a volume that is tissue all over, from what is dark in it."""
    brightest = np.percentile(signal, 99.5)
    # flat, as the library takes slabs of three or four slices for colours
    limit = float(threshold_otsu(np.minimum(signal, brightest).ravel()))
    dark = signal[signal <= limit]
    if not len(dark) or np.median(dark) > limit / 3:  # noise is far below the threshold: this is dark tissue
        return _NO_AIR * float(np.median(signal))
    return limit


def _even(signal: Array, size_mm: Array) -> Array:
    """Divide by the local mean of what is above a first threshold."""
    tissue = signal > 0.5 * _threshold(signal)
    mean = _local_mean(signal, tissue, _SHADING_MM / size_mm)
    return np.asarray(signal / np.maximum(mean, 0.05 * mean.max()))


def _local_mean(signal: Array, where: Array, sigma: Array) -> Array:
    """Average what lies in a mask with a Gaussian; far from it this tends to 0."""
    share = ndimage.gaussian_filter(where.astype(np.float32), sigma, mode="nearest")
    total = ndimage.gaussian_filter(np.where(where, signal, 0), sigma, mode="nearest")
    return np.asarray(total / np.maximum(share, 1e-3))


def _distance(mask: Array, size_mm: Array) -> Array:
    """Distance of each voxel in a mask from what is outside, mm; far where nothing is."""
    if mask.all():
        return np.full(mask.shape, 1e3)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=size_mm))


def _close(mask: Array, size_mm: Array, radius_mm: float) -> Array:
    grown = _distance(~mask, size_mm) <= radius_mm
    return np.asarray(ndimage.binary_fill_holes(mask | (_distance(grown, size_mm) > radius_mm)))


def _central_piece(core: Array, centre: Array, size_mm: Array) -> Array:
    """Give the piece of a mask with most volume near a centre (voxels)."""
    pieces, count = ndimage.label(core)
    where = (np.stack(np.nonzero(core)) - centre[:, None]) * size_mm[:, None]
    weight = np.exp(-(where**2).sum(0) / _CENTRE_MM**2)
    return np.asarray(pieces == np.bincount(pieces[core], weight, minlength=count + 1).argmax())


def _without_fluid(brain: Array, even: Array, size_mm: Array) -> Array:
    """Take the dark rim off: voxels reached from outside through what is darker than the tissue nearby."""
    depth_mm = _distance(brain, size_mm)
    deep = brain & (depth_mm > _FLUID_MM) & (even > _FLUID * np.median(even[brain]))
    tissue = even > _FLUID * _local_mean(even, deep, _NEARBY_MM / size_mm)
    rim = brain & ~tissue & (depth_mm <= _FLUID_MM)
    outside = ~brain
    reached = ndimage.binary_propagation(outside, mask=outside | rim)
    kept = brain & ~reached
    return kept if kept.sum() > 0.5 * brain.sum() else brain


def _find(signal: Array, size_mm: Array) -> Array:
    """Steps 1 to 3 on the working grid, bool."""
    even = _even(signal, size_mm)
    tissue = even > 0.5 * _threshold(even)
    core = _distance(tissue, size_mm) > _CORE_DEPTH_MM
    if not core.any():
        return core
    centre = np.array(ndimage.center_of_mass(tissue))
    core = _central_piece(core, centre, size_mm)
    brain = tissue & (_distance(~core, size_mm) <= _REGROWTH * _CORE_DEPTH_MM)
    brain = _without_fluid(_close(brain, size_mm, _CLOSING_MM), even, size_mm)
    return _close(_opened(brain, size_mm), size_mm, _CLOSING_MM)


def _opened(mask: Array, size_mm: Array) -> Array:
    """Take off what is thinner than 4 mm, and keep the largest piece."""
    inner = _distance(mask, size_mm) > 2.0
    mask = mask & (_distance(~inner, size_mm) <= 2.5)
    pieces, count = ndimage.label(mask)
    return mask if count < 2 else np.asarray(pieces == 1 + np.bincount(pieces[mask])[1:].argmax())


def _reduced(signal: Tensor, factors: list[int]) -> Tensor:
    """Average blocks of voxels; at the end the last voxels are repeated."""
    missing = [-n % f for n, f in zip(signal.shape, factors, strict=True)]
    padded = pad(signal[None, None], [0, missing[2], 0, missing[1], 0, missing[0]], mode="replicate")
    return avg_pool3d(padded, factors)[0, 0]


def _restored(mask: Array, size_mm: Array, factors: list[int], shape: torch.Size) -> Tensor:
    """Bring a mask to the voxels of the image through its signed distance, bool."""
    signed = torch.from_numpy(_distance(mask, size_mm) - _distance(~mask, size_mm)).float()
    fine = interpolate(signed[None, None], scale_factor=tuple(map(float, factors)), mode="trilinear")[0, 0]
    return fine[: shape[0], : shape[1], : shape[2]] > 0


def brain_mask(magnitude: Tensor, voxel_size_mm: Tensor, *, field_quality: Tensor | None = None) -> Tensor:
    """Find the brain in gradient echoes, by the steps at the head of this module.

    Args:
        magnitude: (E, X, Y, Z), one echo or more, any unit.
        voxel_size_mm: (3,) in mm.
        field_quality: (1, X, Y, Z), 0 to 1: voxels at the rim with less than 0.1 are left out. None leaves none out.

    Returns:
        The mask, (1, X, Y, Z), 0 or 1, float32.

    Raises:
        InputError: no signal, or nothing in it that could be a brain.
    """
    if magnitude.ndim != 4:
        raise ValueError(f"the magnitude must be (E, X, Y, Z), got {tuple(magnitude.shape)}; put the echoes first")
    signal = combine_echoes(magnitude.detach().cpu().float().nan_to_num(0.0, 0.0, 0.0))[0]
    if not signal.max() > 0:
        raise InputError(f"brain mask: the magnitude is 0 everywhere; check its file or {_REMEDY}")
    size = voxel_size_mm.detach().cpu().double()
    factors = [max(1, math.floor(_WORKING_MM / float(v) + 0.5)) for v in size]
    factors = [min(f, n) for f, n in zip(factors, signal.shape, strict=True)]
    working_mm = np.array([f * float(v) for f, v in zip(factors, size, strict=True)])
    found = _find(_reduced(signal, factors).numpy(), working_mm)
    mask = _restored(found, working_mm, factors, signal.shape) if found.any() else torch.zeros_like(signal).bool()
    if field_quality is not None and bool(mask.any()):
        good = field_quality[0].detach().cpu().nan_to_num(0.0) >= POOR_QUALITY
        mask = torch.from_numpy(ndimage.binary_fill_holes((mask & good).numpy()))
    if float(mask.sum() * size.prod()) < _SMALLEST_MM3:
        raise InputError(f"brain mask: no piece of signal in the magnitude could be a brain; {_REMEDY}")
    return mask.float()[None].to(magnitude.device)


class BrainMaskd(Transform):
    """Write ``mask`` from ``magnitude`` and ``voxel_size_mm``, and from ``field_quality`` where it is there."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the brain."""
        magnitude = to_float_tensor(data[MAGNITUDE])
        quality = None if data.get(FIELD_QUALITY) is None else to_float_tensor(data[FIELD_QUALITY]).as_subclass(Tensor)
        size = torch.as_tensor(data[VOXEL_SIZE_MM]).as_subclass(Tensor).reshape(3)
        try:
            mask = brain_mask(magnitude.as_subclass(Tensor), size, field_quality=quality)
        except InputError as error:
            raise InputError(f"{image_name(MAGNITUDE, data[MAGNITUDE])}: {error}") from error
        litres = float(mask.sum() * size.double().prod().to(mask.device)) / 1e6
        note = f"brain mask: made from the magnitude ({litres:.2f} l); look at it, or give one of your own with --mask"
        return {**data, MASK: with_meta_of(mask, magnitude), NOTES: [*data.get(NOTES, []), note]}
