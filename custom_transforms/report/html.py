"""`report.html`: one file with every map of a subject, which opens without a network and without a server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import ArrayLike, NDArray

from custom_transforms import keys
from custom_transforms.provenance import versions
from custom_transforms.report.histograms import HEIGHT, WIDTH, Histogram, histogram
from custom_transforms.report.html_maps import MapForReport, Window
from custom_transforms.report.html_regions import RegionRow, region_table
from custom_transforms.report.slices import Picture, Slicer
from custom_transforms.report.viewer import STEPS, Volume, volumes, widget_licence, widget_text

LARGEST_BYTES = 25_000_000
"""Of a report: it is sent by mail, and opened on small machines."""

BEYOND_SD = 2.0
"""z-scores beyond it are coloured in the table of regions."""

_ROWS = ((2,), (1, 0))  # axes that slices of one row are cut along
_SCRIPT_BYTES = 30_000  # of what drives the viewer, and of its list of volumes, at most
_OUTLINED = keys.MAGNITUDE


class _Card(NamedTuple):
    """A map as the page shows it."""

    name: str
    map: MapForReport
    window: Window
    rows: list[list[Picture]]
    outlined: bool
    histogram: Histogram
    rms: float


def write_report(
    path: Path,
    *,
    title: str,
    maps: Mapping[str, MapForReport],
    mask: ArrayLike,
    affine: ArrayLike,
    measured: Mapping[str, str],
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    residuals: Mapping[str, MapForReport] | None = None,
    regions: Sequence[RegionRow] = (),
    regions_note: str = "",
) -> None:
    """Write the report of a subject: one self-contained HTML file of at most :data:`LARGEST_BYTES`.

    Args:
        path: file to write; its folder exists.
        title: heading, such as the subject's name. This and all other text is escaped.
        maps: by their keys, in the order in which they are shown; the outline of the mask is drawn on ``magnitude``.
        mask: (X, Y, Z), 1 in the brain.
        affine: (4, 4), voxel indices to RAS+ in mm, of the mask and of all maps.
        measured: for each quantity where it comes from: {"R2'": "predicted from R2*"}.
        provenance: settings, inputs, versions and whatever else JSON can hold; each entry can be opened on the page.
        warnings: sentences that the user must read, on top.
        residuals: what the result leaves unexplained, see :mod:`custom_transforms.report.html_residuals`.
        regions: values of regions, against the norm where there is one; a row of the page for each region.
        regions_note: how the regions were found.

    Raises:
        ValueError: there is no map, or one is not on the grid of the mask.
    """
    inside, geometry = np.asarray(mask, dtype=np.float32), np.asarray(affine, dtype=float)
    residuals = residuals or {}
    _check(maps, residuals, inside, geometry)
    slicer = Slicer(inside, geometry)
    page = {
        "title": title,
        "warnings": list(warnings),
        "measured": dict(measured),
        "cards": [_card(name, shown, slicer, inside) for name, shown in maps.items()],
        "residuals": [_card(name, shown, slicer, inside) for name, shown in residuals.items()],
        **region_table(regions),
        "regions_note": regions_note,
        "provenance": {name: _readable(value) for name, value in provenance.items()},
        "versions": versions(),
        "beyond_sd": BEYOND_SD,
        "histogram_size": (WIDTH, HEIGHT),
    }
    program, licence = widget_text(), widget_licence()
    empty = _render(page, program, licence, [], 0.0)
    in_viewer = {name: shown for name, shown in maps.items() if shown.in_viewer}
    budget = LARGEST_BYTES - len(empty.encode()) - len(program) - _SCRIPT_BYTES
    shown, finest_mm = volumes(in_viewer, inside, slicer, budget_bytes=budget)
    path.write_text(_render(page, program, licence, shown, finest_mm), encoding="utf-8")


def _check(
    maps: Mapping[str, MapForReport], residuals: Mapping[str, MapForReport], mask: NDArray, affine: NDArray
) -> None:
    if not maps:
        raise ValueError("expected at least one map to report, got none")
    if mask.ndim != 3 or affine.shape != (4, 4):
        raise ValueError(f"expected a mask (X, Y, Z) and an affine (4, 4), got {mask.shape} and {affine.shape}")
    for name, shown in {**maps, **residuals}.items():
        if shown.values.shape != mask.shape:
            raise ValueError(f"{name} has the shape {shown.values.shape}, the mask {mask.shape}; resample one of them")


def _card(name: str, shown: MapForReport, slicer: Slicer, mask: NDArray) -> _Card:
    window = shown.window_in(mask)
    outlined = name == _OUTLINED
    inside = shown.values[(mask > 0.5) & np.isfinite(shown.values)]
    return _Card(
        name=name,
        map=shown,
        window=window,
        rows=[slicer.cut(shown.values, window, planes, outline=outlined) for planes in _ROWS],
        outlined=outlined,
        histogram=histogram(shown.values, mask, window),
        rms=float(np.sqrt(np.mean(np.square(inside, dtype=np.float64)))) if inside.size else float("nan"),
    )


def _readable(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _number(value: float | None, window: Window | None = None) -> str:
    """Write a number with three digits, or to a thousandth of a window."""
    if value is None or not np.isfinite(value):
        return "n/a"
    if window is not None:
        decimals = max(round(math.log10(1000 / (window[1] - window[0]))), 0)
        text = f"{value:.{decimals}f}"
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return _signed(text)


def _fixed(value: float | None, decimals: int) -> str:
    return "n/a" if value is None or not np.isfinite(value) else _signed(f"{value:,.{decimals}f}")


def _signed(text: str) -> str:
    """Write a true minus sign, and none before zero."""
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "\N{MINUS SIGN}")


def _policy_hash(script: str) -> str:
    """Give what a content security policy calls a script by: no other one may run on the page."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _render(page: Mapping[str, Any], program: str, licence: str, shown: Sequence[Volume], finest_mm: float) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, fixed=_fixed)
    script = _asset("viewer.js")
    fields = ("name", "unit", "low", "high", "floor")
    listed = [
        {"element": f"volume-{i}", **{field: getattr(volume, field) for field in fields}}
        for i, volume in enumerate(shown)
    ]
    return environment.from_string(_asset("page.html.jinja")).render(
        page,
        style=_asset("style.css"),
        script=script,
        script_hash=_policy_hash(script),
        program=program,
        licence=licence,
        volumes=shown,
        listed=listed,
        finest_mm=finest_mm,
        viewer_steps=STEPS,
    )
