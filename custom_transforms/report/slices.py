"""Orthogonal slices through the maps of a subject, as pictures that a page can hold.

All maps are brought to RAS+ first, so that left is left: the patient's right is on the right.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from custom_transforms.report.html_maps import Window

POSITIONS = {2: (0.19, 0.31, 0.4, 0.47, 0.54, 0.64, 0.77), 1: (0.3, 0.48, 0.65), 0: (0.3, 0.47, 0.65)}
"""Where slices are cut along each axis (2: axial, 1: coronal, 0: sagittal), as a share of the mask's extent: at the
cerebellum, the midbrain, the basal ganglia, the ventricles and the white matter above them."""

PLANES = ("sagittal", "coronal", "axial")
_AXES = "xyz"
_MARGIN_MM = 6.0
_LONGEST_SIDE = 256  # pixels of a picture: more would not be seen on a page, but it would weigh
_OUTLINE_RGB = (255, 140, 0)
_OUTLINE_ZOOM = 2  # so that the line is thinner than a voxel


class Picture(NamedTuple):
    """A slice as a page shows it.

    Attributes:
        uri: data URI of a PNG.
        plane: axial, coronal or sagittal.
        position: "z = 12 mm", that of its middle in scanner coordinates.
        width_mm: extent from left to right.
        height_mm: extent from bottom to top.
        right: letter of the direction to the right, R or A.
    """

    uri: str
    plane: str
    position: str
    width_mm: float
    height_mm: float
    right: str


class Slicer:
    """Cut the same slices through every map of a subject.

    Args:
        mask: (X, Y, Z), 1 in the brain; slices are cut at shares of its extent and cropped to it.
        affine: (4, 4), voxel indices to RAS+ in mm.
    """

    def __init__(self, mask: NDArray, affine: NDArray) -> None:
        self._stored_affine = affine
        image = self._canonical(mask > 0.5)
        self.affine = image.affine
        self.voxel_size_mm = np.array(image.header.get_zooms()[:3], dtype=float)
        self._mask = np.asarray(image.dataobj) > 0.5
        inside = np.argwhere(self._mask if self._mask.any() else np.ones_like(self._mask))
        self.low, self.high = inside.min(axis=0), inside.max(axis=0) + 1
        margin = np.round(_MARGIN_MM / self.voxel_size_mm).astype(int)
        self._box = tuple(
            slice(max(low - m, 0), min(high + m, size))
            for low, high, m, size in zip(self.low, self.high, margin, self._mask.shape, strict=True)
        )

    def _canonical(self, values: NDArray) -> nib.Nifti1Image:
        return nib.as_closest_canonical(nib.Nifti1Image(values.astype(np.float32), self._stored_affine))

    def in_ras(self, values: NDArray) -> NDArray:
        """Give a map (X, Y, Z) in RAS+ order, float32."""
        return np.asarray(self._canonical(values).dataobj)

    def cut(self, values: NDArray, window: Window, planes: Sequence[int], *, outline: bool = False) -> list[Picture]:
        """Cut slices through a map.

        Args:
            values: (X, Y, Z) as stored.
            window: values that are black and white.
            planes: axes to cut along; 0 sagittal, 1 coronal, 2 axial.
            outline: draw that of the mask.

        Returns:
            All slices of the first plane from low to high, then those of the next one.
        """
        volume = self.in_ras(values)
        return [
            self._cut(volume, window, plane, share, outline=outline) for plane in planes for share in POSITIONS[plane]
        ]

    def _cut(self, volume: NDArray, window: Window, plane: int, share: float, *, outline: bool) -> Picture:
        index = int(self.low[plane] + share * (self.high[plane] - 1 - self.low[plane]) + 0.5)
        part = tuple(index if axis == plane else box for axis, box in enumerate(self._box))
        middle = [index if axis == plane else (size - 1) / 2 for axis, size in enumerate(volume.shape)]
        position_mm = float((self.affine @ [*middle, 1.0])[plane])
        values = volume[part]
        first, second = (size for axis, size in enumerate(self.voxel_size_mm) if axis != plane)
        return Picture(
            uri=_png(_grey(values, window), self._mask[part] if outline else None),
            plane=PLANES[plane],
            position=f"{_AXES[plane]} = {round(position_mm)} mm",
            width_mm=float(values.shape[0] * first),
            height_mm=float(values.shape[1] * second),
            right="A" if plane == 0 else "R",
        )


def _grey(values: NDArray, window: Window) -> NDArray:
    """Give grey levels 0 to 255, uint8."""
    low, high = window
    share = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.round(255 * share.clip(0, 1)).astype(np.uint8)


def _upright(values: NDArray) -> NDArray:
    """Turn (right, up) into rows from top to bottom."""
    return np.ascontiguousarray(values.T[::-1])


def _png(grey: NDArray, mask: NDArray | None) -> str:
    picture = Image.fromarray(_upright(grey))
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BOX)
    if mask is not None:
        size = (_OUTLINE_ZOOM * picture.width, _OUTLINE_ZOOM * picture.height)
        inside = np.asarray(Image.fromarray(_upright(mask)).resize(size, Image.Resampling.NEAREST))
        coloured = np.array(picture.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
        coloured[inside & ~binary_erosion(inside, border_value=1)] = _OUTLINE_RGB
        picture = Image.fromarray(coloured)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
