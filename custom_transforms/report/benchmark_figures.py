"""Figures of a benchmark: error maps of many variants, and the means of regions against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.metrics import fit_line
from custom_transforms.report.figures import ERROR_WINDOW_PPM, WINDOWS_PPM

SOURCES = (CHI_PARA, CHI_DIA)
_COLOURS = {CHI_PARA: "#c44e52", CHI_DIA: "#4c72b0"}
_VARIANTS_A_ROW = 4
_PANELS_A_ROW = 4
_PANEL_INCH = 1.35
_DPI = 80
_GREYS, _FEWER_GREYS = 48, 16
_CAPTION = (
    f"each estimate, {WINDOWS_PPM[CHI_PARA][0]:g} to {WINDOWS_PPM[CHI_PARA][1]:g} ppm, and its error, "
    f"{ERROR_WINDOW_PPM[0]:g} to {ERROR_WINDOW_PPM[1]:g} ppm, from black to white; the patient's right is on the right"
)


def axial_slices(values: ArrayLike, mask: ArrayLike, affine: ArrayLike) -> tuple[NDArray, float]:
    """Cut the axial slice through the centre of the mask, and crop it to the mask.

    Args:
        values: (N, X, Y, Z), any number of maps.
        mask: (X, Y, Z), 1 in the brain.
        affine: (4, 4), voxel indices to RAS+ in mm.

    Returns:
        (N, X', Y') with the first axis to the right and the second one to the front, and the ratio of their voxel
        sizes, second to first.
    """
    stacked = np.concatenate([np.asarray(values, dtype=np.float32), np.asarray(mask, dtype=np.float32)[None]])
    image = nib.as_closest_canonical(nib.Nifti1Image(np.moveaxis(stacked, 0, -1), np.asarray(affine)))
    maps = np.moveaxis(image.get_fdata(dtype=np.float32), -1, 0)
    inside = np.argwhere(maps[-1] > 0.5)
    low, high, level = inside.min(axis=0), inside.max(axis=0) + 1, round(float(inside[:, 2].mean()))
    width, height = image.header.get_zooms()[:2]
    return maps[:-1, low[0] : high[0], low[1] : high[1], level], float(height / width)


def save_error_maps_figure(path: Path, truth: NDArray, estimates: Mapping[str, NDArray], *, aspect: float) -> None:
    """Draw a slice of the truth, and of the estimate and the error (estimate - truth) of every variant.

    Some variants stand beside each other, chi_para above chi_dia, and the others below.

    Args:
        path: PNG file to write.
        truth: (2, X, Y), chi_para and chi_dia in ppm.
        estimates: the same for each variant, by its name.
        aspect: voxel size along Y over that along X.
    """
    names = list(estimates)
    blocks = [names[i : i + _VARIANTS_A_ROW] for i in range(0, len(names), _VARIANTS_A_ROW)]
    columns = 1 + 2 * min(_VARIANTS_A_ROW, len(names))
    height = _PANEL_INCH * truth.shape[2] / truth.shape[1] * aspect + 0.1
    figure = Figure(figsize=(_PANEL_INCH * columns, (2 * height + 0.3) * len(blocks) + 0.4), layout="constrained")
    for block, part in zip(blocks, figure.subfigures(len(blocks), squeeze=False).flat, strict=True):
        rows = part.subplots(2, columns)
        for i, (source, row) in enumerate(zip(SOURCES, rows, strict=True)):
            row[0].set_ylabel(source, fontsize=9)
            shown = {name: estimates[name][i] for name in block}
            _draw_source(row, truth[i], shown, WINDOWS_PPM[source], aspect, titles=i == 0)
    figure.supxlabel(_CAPTION, fontsize=9)
    figure.savefig(path, dpi=_DPI)
    _shrink(path, _FEWER_GREYS)


def _draw_source(
    row: Sequence[Axes],
    truth: NDArray,
    estimates: Mapping[str, NDArray],
    window: tuple[float, float],
    aspect: float,
    *,
    titles: bool,
) -> None:
    """Draw the truth, then the estimate and the error of each variant; panels that are left over stay empty."""
    panels = [(truth, window, "truth")]
    for name, estimate in estimates.items():
        panels += [(estimate, window, name), (estimate - truth, ERROR_WINDOW_PPM, "")]
    for axes, (values, (low, high), title) in zip(row, panels, strict=False):
        axes.imshow(values.T, origin="lower", cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        if titles:
            axes.set_title(title, fontsize=9, loc="left")
    for i, axes in enumerate(row):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(i < len(panels))


def save_regression_figure(path: Path, points: Mapping[str, Mapping[str, NDArray]]) -> None:
    """Draw the means of regions against the truth, one panel for each variant, with the slopes in its title.

    Args:
        path: PNG file to write.
        points: for each variant and source (N, 2), truth and estimate in ppm.
    """
    rows = -(-len(points) // _PANELS_A_ROW)
    columns = min(_PANELS_A_ROW, len(points))
    figure = Figure(figsize=(2.8 * columns, 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(points) :]:
        axes.set_axis_off()
    limit = 1.1 * max(pairs[:, 0].max() for sources in points.values() for pairs in sources.values())
    for axes, (name, sources) in zip(grid.flat, points.items(), strict=False):
        _draw_regression(axes, sources)
        axes.set(xlim=(0, limit), ylim=(0, limit))
        slopes = [f"{float(fit_line(*torch.from_numpy(pairs).T).slope):.2f}" for pairs in sources.values()]
        axes.set_title(f"{name}\nslopes {' and '.join(slopes)}", fontsize=9)
    figure.supxlabel("mean of a region in the truth, ppm", fontsize=9)
    figure.supylabel("in the estimate, ppm", fontsize=9)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    figure.savefig(path, dpi=_DPI)
    _shrink(path, _GREYS)


def _draw_regression(axes: Axes, sources: Mapping[str, NDArray]) -> None:
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8, label="equal")
    for source, pairs in sources.items():
        axes.scatter(pairs[:, 0], pairs[:, 1], s=9, color=_COLOURS[source], label=source)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _shrink(path: Path, colours: int) -> None:
    """Keep as many colours as one can tell apart in a small picture, in a third of the bytes."""
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(colours).save(path, optimize=True)
