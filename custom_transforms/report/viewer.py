"""The 3-D viewer of the report: NiiVue, as the package ipyniivue carries it, and the volumes that it shows.

Both are packed as text, so that the page needs no server: the program as gzip in base64, each volume as .nii.gz in
base64. A volume is cropped to the mask and coarsened where it would weigh too much; it holds steps of a small
part of its window, which noise exceeds.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from custom_transforms.report.html_maps import MapForReport, Window
from custom_transforms.report.slices import Slicer

VOXEL_SIZES_MM = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Finest voxel sizes to try, until the volumes fit."""

LARGEST_BYTES = 3_000_000
"""Of a volume as .nii.gz."""

STEPS = 128
"""Values that a volume tells apart within a window: more of them weigh more, and are lost in noise."""

_PACKAGE = "ipyniivue"
_LOWEST_CODE, _OUTSIDE_CODE = -32_000, -32_768  # int16
_MARGIN_VOXELS = 1
_LEVEL = 6  # of gzip; 9 takes thrice the time for some percent


class Volume(NamedTuple):
    """A map for the viewer.

    Attributes:
        name: key that tells it from the others.
        title: what a person reads.
        unit: of its values.
        low: value that is black.
        high: value that is white.
        floor: values below it are outside the mask.
        text: .nii.gz in base64.
    """

    name: str
    title: str
    unit: str
    low: float
    high: float
    floor: float
    text: str


@dataclass(frozen=True)
class _Grid:
    """The brain's box in RAS+ order: which voxels of the image it holds, and which of these are inside the mask."""

    box: tuple[slice, ...]
    inside: NDArray
    affine: NDArray
    voxel_size_mm: NDArray


def widget_text() -> str:
    """Give the program of the viewer, an ES module, as gzip in base64.

    Raises:
        ModuleNotFoundError: ipyniivue is not installed.
    """
    program = resources.files(_PACKAGE).joinpath("static/widget.js").read_bytes()
    return base64.b64encode(gzip.compress(program, 9, mtime=0)).decode("ascii")


def widget_licence() -> str:
    """Give the name, the version and the licence of the viewer: whoever hands it on must hand them on, too."""
    about = metadata.distribution(_PACKAGE)
    texts = [file.read_text() for file in about.files or () if "LICENSE" in file.name.upper()]
    return "\n\n".join([f"NiiVue, from {_PACKAGE} {about.version}", *texts])


def volumes(
    maps: Mapping[str, MapForReport], mask: NDArray, slicer: Slicer, *, budget_bytes: int
) -> tuple[list[Volume], float]:
    """Pack maps for the viewer, as fine as their number of bytes allows.

    Args:
        maps: those to show, on the grid of the mask.
        mask: (X, Y, Z), 1 in the brain.
        slicer: of that mask.
        budget_bytes: most that all texts together may weigh.

    Returns:
        The volumes, and the voxel size in mm to which finer voxels were brought. There are no volumes if even the
        coarsest ones weigh too much.
    """
    grid = _brain_box(mask, slicer)
    for finest_mm in VOXEL_SIZES_MM:
        packed: list[Volume] = []
        for name, shown in maps.items():
            packed.append(_pack(name, shown, shown.window_in(mask), slicer, grid, finest_mm))
            weight = sum(len(volume.text) for volume in packed)
            if weight > budget_bytes or len(packed[-1].text) > LARGEST_BYTES * 4 // 3:
                break
        else:
            return packed, finest_mm
    return [], VOXEL_SIZES_MM[-1]


def _brain_box(mask: NDArray, slicer: Slicer) -> _Grid:
    inside = slicer.in_ras(mask) > 0.5
    low = np.maximum(slicer.low - _MARGIN_VOXELS, 0)
    box = tuple(slice(a, b + _MARGIN_VOXELS) for a, b in zip(low, slicer.high, strict=True))
    affine = slicer.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return _Grid(box, inside[box], affine, slicer.voxel_size_mm)


def _pack(name: str, shown: MapForReport, window: Window, slicer: Slicer, grid: _Grid, finest_mm: float) -> Volume:
    values, inside, affine = _coarsen(slicer.in_ras(shown.values)[grid.box], grid, finest_mm)
    low, high = window
    step = (high - low) / STEPS
    codes = np.round(np.nan_to_num(values) / step).clip(_LOWEST_CODE, -_LOWEST_CODE)
    image = nib.Nifti1Image(np.where(inside, codes, _OUTSIDE_CODE).astype(np.int16), affine)
    image.header.set_slope_inter(step, 0.0)
    image.header.set_xyzt_units("mm")
    data = gzip.compress(image.to_bytes(), _LEVEL, mtime=0)
    text = base64.b64encode(data).decode("ascii")
    return Volume(name, shown.title, shown.unit, low, high, (_LOWEST_CODE - 1) * step, text)


def _coarsen(values: NDArray, grid: _Grid, finest_mm: float) -> tuple[NDArray, NDArray, NDArray]:
    """Average to voxels of at least the given size; only what is inside counts.

    Args:
        values: (X, Y, Z) in the brain's box.
        grid: that box.
        finest_mm: finest voxel size to leave.

    Returns:
        The values, where they are inside, each (X', Y', Z'), and their affine.
    """
    shape = np.array(values.shape)
    coarse = np.minimum(np.maximum(np.floor(shape * grid.voxel_size_mm / finest_mm + 1e-3), 1).astype(int), shape)
    if (coarse == shape).all():
        return values, grid.inside, grid.affine
    share = _area_mean(grid.inside.astype(np.float32), coarse)
    mean = _area_mean(np.where(grid.inside, np.nan_to_num(values), 0.0), coarse) / np.maximum(share, 1e-6)
    ratio = shape / coarse
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((ratio - 1) / 2)
    affine[:3, :3] *= ratio
    return mean, share > 0.5, affine


def _area_mean(values: NDArray, shape: NDArray) -> NDArray:
    """Average (X, Y, Z) over the voxels of a coarser grid with the same borders, by their exact overlap."""
    for axis, (fine, coarse) in enumerate(zip(values.shape, shape, strict=True)):
        borders = np.arange(coarse + 1) * (fine / coarse)
        voxel = np.arange(fine)
        overlap = np.minimum(borders[1:, None], voxel + 1) - np.maximum(borders[:-1, None], voxel)
        weights = (overlap.clip(min=0) * (coarse / fine)).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return values
