"""Figures of susceptibility maps: orthogonal slices in the usual grey scale windows.

All maps are brought to RAS+ first, so that left is left in every figure: the patient's right is on the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from custom_transforms.keys import CHI_DIA, CHI_PARA, CHI_TOTAL

WINDOWS_PPM = {CHI_PARA: (0.0, 0.1), CHI_DIA: (0.0, 0.1), CHI_TOTAL: (-0.1, 0.1)}
ERROR_WINDOW_PPM = (-0.05, 0.05)

_PLANES = ("sagittal", "coronal", "axial")
_AXIAL = 2
_BLACK_ON_WHITE = {"color": "black", "fontsize": 10}


def _canonical(values: ArrayLike, affine: NDArray) -> tuple[NDArray, NDArray]:
    """Give a map (X, Y, Z) in RAS+ order, and its voxel size (3,) in mm."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine))
    return image.get_fdata(dtype=np.float32), np.array(image.header.get_zooms()[:3])


def _middle(inside: NDArray) -> tuple[int, int, int]:
    """Give the voxel through which slices are cut: the centre of what is inside, (X, Y, Z)."""
    x, y, z = (round(float(axis.mean())) for axis in np.nonzero(inside))
    return x, y, z


def _show(
    axes: Axes, volume: NDArray, voxel_size_mm: NDArray, *, plane: int, index: int, window: tuple[float, float]
) -> AxesImage:
    first, second = (axis for axis in range(3) if axis != plane)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if plane != 0:
        axes.text(0.98, 0.02, "R", transform=axes.transAxes, ha="right", va="bottom", color="white", fontsize=8)
    return axes.imshow(
        np.take(volume, index, axis=plane).T,
        origin="lower",
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        aspect=float(voxel_size_mm[second] / voxel_size_mm[first]),
        interpolation="nearest",
    )


def save_maps_figure(path: Path, maps: Mapping[str, ArrayLike], affine: ArrayLike, *, note: str = "") -> None:
    """Draw maps in three orthogonal slices, one row for each map.

    Args:
        path: file to write; its suffix is the format.
        maps: chi_para, chi_dia or chi_total, (X, Y, Z) in ppm, zero outside the brain.
        affine: (4, 4), voxel indices to RAS+ in mm.
        note: what whoever looks at the figure must know, written beneath the maps.
    """
    volumes = {name: _canonical(values, np.asarray(affine)) for name, values in maps.items()}
    inside = np.any([volume != 0 for volume, _ in volumes.values()], axis=0)
    middle = _middle(inside if inside.any() else np.ones_like(inside))
    figure = Figure(figsize=(10, 3.1 * len(volumes)), layout="constrained")
    grid = figure.subplots(len(volumes), 3, squeeze=False)
    for row, (name, (volume, voxel_size_mm)) in zip(grid, volumes.items(), strict=True):
        for plane, axes in enumerate(row):
            shown = _show(axes, volume, voxel_size_mm, plane=plane, index=middle[plane], window=WINDOWS_PPM[name])
        row[0].set_ylabel(name, **_BLACK_ON_WHITE)
        figure.colorbar(shown, ax=list(row), label="ppm", fraction=0.025, extend="both")
    for axes, plane_name in zip(grid[0], _PLANES, strict=True):
        axes.set_title(plane_name, **_BLACK_ON_WHITE)
    if note:
        figure.supxlabel(note, **_BLACK_ON_WHITE)
    figure.savefig(path, dpi=120)


def save_comparison_figure(
    path: Path, truth: Mapping[str, ArrayLike], estimates: Mapping[str, Mapping[str, ArrayLike]], affine: ArrayLike
) -> None:
    """Draw an axial slice of the truth, of estimates, and of their errors (estimate - truth).

    Args:
        path: file to write; its suffix is the format.
        truth: chi_para and chi_dia, (X, Y, Z) in ppm, zero outside the brain.
        estimates: the same for each method, by its name.
        affine: (4, 4), voxel indices to RAS+ in mm.
    """
    methods = {"truth": truth, **estimates}
    volumes = {
        method: {name: _canonical(maps[name], np.asarray(affine)) for name in truth} for method, maps in methods.items()
    }
    level = _middle(np.any([volume != 0 for volume, _ in volumes["truth"].values()], axis=0))[_AXIAL]
    columns = len(methods) + len(estimates)
    figure = Figure(figsize=(2.6 * columns, 3.1 * len(truth)), layout="constrained")
    grid = figure.subplots(len(truth), columns, squeeze=False)
    for row, name in zip(grid, truth, strict=True):
        for axes, maps in zip(row, volumes.values(), strict=False):
            shown = _show(axes, *maps[name], plane=_AXIAL, index=level, window=WINDOWS_PPM[name])
        figure.colorbar(shown, ax=list(row[: len(methods)]), label="ppm", fraction=0.025, extend="max")
        reference = volumes["truth"][name][0]
        for axes, method in zip(row[len(methods) :], estimates, strict=True):
            volume, voxel_size_mm = volumes[method][name]
            error = volume - reference
            wrong = _show(axes, error, voxel_size_mm, plane=_AXIAL, index=level, window=ERROR_WINDOW_PPM)
        figure.colorbar(wrong, ax=list(row[len(methods) :]), label="ppm", fraction=0.025, extend="both")
        row[0].set_ylabel(name, **_BLACK_ON_WHITE)
    for axes, title in zip(grid[0], [*methods, *(f"{method}: error" for method in estimates)], strict=True):
        axes.set_title(title, **_BLACK_ON_WHITE)
    figure.savefig(path, dpi=120)
