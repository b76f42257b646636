"""Scores of methods side by side: a Markdown table and a bar chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from custom_transforms.keys import CHI_DIA, CHI_PARA

Scores = Mapping[str, Mapping[str, float]]
"""For each method its metrics by the names of evaluate.json."""


class Column(NamedTuple):
    """How a metric is shown: its title, its decimals, and the key by which the least value is the best."""

    title: str
    decimals: int
    rank: Callable[[float], float]


def _itself(value: float) -> float:
    return value


def _negative(value: float) -> float:
    return -value


def _from_one(value: float) -> float:
    return abs(value - 1)


_SOURCES = {"para": CHI_PARA, "dia": CHI_DIA}
_METRICS = {
    "nrmse_{}": Column("NRMSE, %", 1, _itself),
    "nrmse_{}_demeaned": Column("demeaned NRMSE, %", 1, _itself),
    "psnr_{}": Column("PSNR, dB", 1, _negative),
    "ssim_{}": Column("SSIM", 3, _negative),
    "xsim_{}": Column("XSIM", 3, _negative),
    "hfen_{}": Column("HFEN, %", 1, _itself),
    "leakage_{}": Column("leakage", 3, abs),
}
_REGIONS = {
    "linearity_{}": Column("deep grey linearity", 3, _itself),
    "region_slope_{}": Column("slope of region means", 3, _from_one),
    "lesion_slope_{}": Column("slope of lesion means", 3, _from_one),
}


def _of_both_sources(metrics: Mapping[str, Column]) -> dict[str, Column]:
    return {
        name.format(source): column._replace(title=f"{key} {column.title}")
        for name, column in metrics.items()
        for source, key in _SOURCES.items()
    }


COLUMNS = _of_both_sources(_METRICS)
"""The columns of the table of `chisep evaluate` by the names of their metrics."""

MAIN_COLUMNS = {
    **_of_both_sources({name: _METRICS[name] for name in ("nrmse_{}", "nrmse_{}_demeaned", "xsim_{}")}),
    "nrmse_total_demeaned": Column("chi_total demeaned NRMSE, %", 1, _itself),
    "wall_time_s": Column("wall time, s", 1, _itself),
    "peak_memory_gib": Column("peak memory, GiB", 2, _itself),
}
"""The columns of the first table of `chisep benchmark`."""

DETAIL_COLUMNS = {
    **_of_both_sources({name: _METRICS[name] for name in ("psnr_{}", "ssim_{}", "hfen_{}", "leakage_{}")}),
    **_of_both_sources(_REGIONS),
}
"""The columns of its second table."""

WITHOUT_R2PRIME = "†"
"""Marks the methods that read R2* in the place of R2'."""

MEAN_RELAXIVITY = "‡"
"""Marks the methods that learnt a single relaxivity and got the mean of two."""

_UNKNOWN = "–"

_PANELS = {"nrmse_{}": "NRMSE in percent, less is better", "xsim_{}": "XSIM, more is better"}
_COLOURS = {"para": "#c44e52", "dia": "#4c72b0"}
_BAR = 0.38  # height; two of them and a gap fill a row


def scores_table(
    scores: Scores,
    *,
    without_r2prime: Collection[str] = (),
    mean_relaxivity: Collection[str] = (),
    columns: Mapping[str, Column] = COLUMNS,
) -> str:
    """Write scores as a Markdown table, the best of each column in bold.

    Args:
        scores: metrics of each method, by its name; NaN is shown as a dash.
        without_r2prime: methods to mark with :data:`WITHOUT_R2PRIME`.
        mean_relaxivity: methods to mark with :data:`MEAN_RELAXIVITY`.
        columns: what to show, by the names of the metrics.

    Returns:
        One row for each method.

    Raises:
        ValueError: a method lacks a metric.
    """
    for name, metrics in scores.items():
        if missing := columns.keys() - metrics.keys():
            raise ValueError(f"{name} lacks {', '.join(sorted(missing))}; score it with evaluate.json")
    best = {key: _best([row[key] for row in scores.values()], column) for key, column in columns.items()}
    lines = [
        "| | " + " | ".join(column.title for column in columns.values()) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, metrics in scores.items():
        cells = [marked(name, without_r2prime=without_r2prime, mean_relaxivity=mean_relaxivity)]
        cells += [_cell(metrics[key], column, best[key]) for key, column in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def marked(name: str, *, without_r2prime: Collection[str], mean_relaxivity: Collection[str]) -> str:
    """Give the name of a method with its marks."""
    marks = {WITHOUT_R2PRIME: without_r2prime, MEAN_RELAXIVITY: mean_relaxivity}
    return " ".join([name, *(mark for mark, names in marks.items() if name in names)])


def _best(values: Sequence[float], column: Column) -> float:
    """Give the best of the values that are known; NaN if none is."""
    return min((value for value in values if not math.isnan(value)), key=column.rank, default=math.nan)


def _cell(value: float, column: Column, best: float) -> str:
    if math.isnan(value):
        return _UNKNOWN
    text = f"{value:.{column.decimals}f}"
    return f"**{text}**" if value == best else text


def save_scores_figure(path: Path, scores: Scores, *, without_r2prime: Collection[str] = ()) -> None:
    """Draw NRMSE and XSIM of both sources as bars, one row for each method.

    Args:
        path: file to write; its suffix is the format.
        scores: metrics of each method, by its name.
        without_r2prime: methods that read R2* in the place of R2', which is said beside their names.
    """
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(scores)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (metric, title) in zip(panels, _PANELS.items(), strict=True):
        _draw_bars(axes, metric, scores)
        axes.set_title(title, fontsize=10)
    labels = [f"{name}\nfrom R2*, R2′ not measured" if name in without_r2prime else name for name in scores]
    panels[0].set_yticks(range(len(scores)), labels, fontsize=9)
    panels[0].invert_yaxis()  # the first method on top
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def _draw_bars(axes: Axes, metric: str, scores: Scores) -> None:
    """Draw one metric of both sources, with the numbers at the ends of the bars."""
    decimals = _METRICS[metric].decimals
    for source, key in _SOURCES.items():
        shift = _BAR / 2 if source == "dia" else -_BAR / 2
        rows = [row + shift for row in range(len(scores))]
        values = [metrics[metric.format(source)] for metrics in scores.values()]
        bars = axes.barh(rows, values, height=_BAR, color=_COLOURS[source], label=key)
        axes.bar_label(bars, fmt=f"%.{decimals}f", padding=2, fontsize=8)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
