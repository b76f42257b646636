"""A figure of cases that go wrong: truth, estimate and difference of both sources, one row a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from custom_transforms.report.benchmark_figures import SOURCES, _shrink
from custom_transforms.report.figures import ERROR_WINDOW_PPM, WINDOWS_PPM

_PANEL_INCH = 1.7
_TEXT_INCH = 0.24
_DPI = 110
_GREYS = 32
_CAPTION = (
    f"maps from {WINDOWS_PPM[SOURCES[0]][0]:g} to {WINDOWS_PPM[SOURCES[0]][1]:g} ppm, differences (estimate - truth) "
    f"from {ERROR_WINDOW_PPM[0]:g} to {ERROR_WINDOW_PPM[1]:g} ppm, from black to white; the patient's right is right"
)


class Slices(NamedTuple):
    """An axial slice of a case.

    Attributes:
        truth: chi_para and chi_dia in ppm, (2, X, Y).
        estimate: the same as the method finds them.
        aspect: voxel size along Y over that along X.
    """

    truth: NDArray
    estimate: NDArray
    aspect: float


def save_failures_figure(path: Path, cases: Mapping[str, Slices]) -> None:
    """Draw every case in a row: truth, estimate and estimate - truth of chi_para, then of chi_dia.

    Args:
        path: PNG file to write.
        cases: by their labels, which stand above the rows.
    """
    titles = [f"{source}: {what}" for source in SOURCES for what in ("truth", "estimate", "difference")]
    heights = [_PANEL_INCH * s.truth.shape[2] / s.truth.shape[1] * s.aspect + _TEXT_INCH for s in cases.values()]
    heights = [_TEXT_INCH, *heights, _TEXT_INCH]
    figure = Figure(figsize=(_PANEL_INCH * len(titles), sum(heights)))
    head, *parts, foot = figure.subfigures(len(heights), height_ratios=heights, hspace=0, squeeze=False)[:, 0]
    for i, title in enumerate(titles):
        head.text((i + 0.5) / len(titles), 0.5, title, ha="center", va="center", fontsize=9)
    foot.text(0.5, 0.5, _CAPTION, ha="center", va="center", fontsize=9)
    for part, height, (label, slices) in zip(parts, heights[1:], cases.items(), strict=False):
        share = _TEXT_INCH / height
        part.text(0.005, 1 - 0.5 * share, label, va="center", fontsize=9, fontweight="bold")
        place = {"left": 0.0, "right": 1.0, "bottom": 0.0, "top": 1 - share, "wspace": 0.02}
        _draw(part.subplots(1, len(titles), gridspec_kw=place), slices)
    figure.savefig(path, dpi=_DPI)
    _shrink(path, _GREYS)


def _draw(row: Sequence[Axes], slices: Slices) -> None:
    """Draw a case in six panels."""
    panels = [
        panel
        for source, truth, estimate in zip(SOURCES, slices.truth, slices.estimate, strict=True)
        for panel in (
            (truth, WINDOWS_PPM[source]),
            (estimate, WINDOWS_PPM[source]),
            (estimate - truth, ERROR_WINDOW_PPM),
        )
    ]
    for axes, (values, (low, high)) in zip(row, panels, strict=True):
        axes.imshow(values.T, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_aspect(slices.aspect)
        axes.set_axis_off()
