"""Histograms of maps inside the mask, as paths that a page draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_transforms.report.html_maps import Window

WIDTH, HEIGHT = 240, 90
"""Size of the drawing, without the axis."""

_BINS = 80
_BEYOND = 0.25  # of the window, shown on both sides of it


class Histogram(NamedTuple):
    """The distribution of a map in the mask.

    Attributes:
        path: outline of the bars, in the drawing's units, y downwards.
        low: x of the window's lower end.
        high: x of the window's upper end.
        middle: x of the median, kept inside the drawing.
        median: of the values; nan without any, as the other statistics.
        fifth: 5th percentile.
        ninety_fifth: 95th percentile.
        mean: of the values.
        sd: standard deviation of the values.
        beyond_percent: values outside the window.
        not_finite: number of voxels of the mask without a value.
    """

    path: str
    low: float
    high: float
    middle: float
    median: float
    fifth: float
    ninety_fifth: float
    mean: float
    sd: float
    beyond_percent: float
    not_finite: int


def histogram(values: NDArray, mask: NDArray, window: Window) -> Histogram:
    """Count the values of a map in the mask.

    Args:
        values: (X, Y, Z).
        mask: (X, Y, Z), 1 in the brain.
        window: the map's; the drawing shows a quarter of its width more on both sides.

    Returns:
        The drawing, and the statistics of all finite values in the mask, whether drawn or not.
    """
    inside = values[mask > 0.5].astype(np.float64)
    finite = inside[np.isfinite(inside)]
    low, high = window
    width = high - low
    edges = np.linspace(low - _BEYOND * width, high + _BEYOND * width, _BINS + 1)
    scale = WIDTH / (edges[-1] - edges[0])
    if finite.size == 0:
        nan = float("nan")
        return Histogram("", *_ends(window, edges, scale), 0.0, nan, nan, nan, nan, nan, nan, inside.size)
    fifth, median, ninety_fifth = (float(value) for value in np.percentile(finite, (5, 50, 95)))
    return Histogram(
        _outline(np.histogram(finite, edges)[0]),
        *_ends(window, edges, scale),
        float(np.clip((median - edges[0]) * scale, 0, WIDTH)),
        median,
        fifth,
        ninety_fifth,
        float(finite.mean()),
        float(finite.std()),
        100 * float(np.mean((finite < low) | (finite > high))),
        inside.size - finite.size,
    )


def _ends(window: Window, edges: NDArray, scale: float) -> tuple[float, float]:
    return (window[0] - edges[0]) * scale, (window[1] - edges[0]) * scale


def _outline(counts: NDArray) -> str:
    """Draw bars that fill the height: the highest one may be cut if the others could not be seen beside it."""
    highest = max(float(np.sort(counts)[-3]) * 1.15, 1.0)  # zeros of a clamped map stand out of two bins
    heights = HEIGHT * np.minimum(counts / highest, 1.0)
    step = WIDTH / len(counts)
    bars = "".join(f"V{HEIGHT - h:.1f}H{step * (i + 1):.1f}" for i, h in enumerate(heights))
    return f"M0,{HEIGHT}{bars}V{HEIGHT}Z"
