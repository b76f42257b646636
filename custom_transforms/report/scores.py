"""Scores of methods side by side: a Markdown table and a bar chart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
COLUMNS = {
    name.format(source): column._replace(title=f"{key} {column.title}")
    for name, column in _METRICS.items()
    for source, key in _SOURCES.items()
}
"""The columns of the table by the names of their metrics."""

WITHOUT_R2PRIME = "†"
"""Marks the methods that read R2* in the place of R2'."""

_PANELS = {"nrmse_{}": "NRMSE in percent, less is better", "xsim_{}": "XSIM, more is better"}
_COLOURS = {"para": "#c44e52", "dia": "#4c72b0"}
_BAR = 0.38  # height; two of them and a gap fill a row


def scores_table(scores: Scores, *, without_r2prime: Collection[str] = ()) -> str:
    """Write scores as a Markdown table, the best of each column in bold.

    Args:
        scores: metrics of each method, by its name; the table has those of :data:`COLUMNS`.
        without_r2prime: methods to mark with :data:`WITHOUT_R2PRIME`.

    Returns:
        One row for each method.

    Raises:
        ValueError: a method lacks a metric.
    """
    for name, metrics in scores.items():
        if missing := COLUMNS.keys() - metrics.keys():
            raise ValueError(f"{name} lacks {', '.join(sorted(missing))}; score it with evaluate.json")
    best = {key: min((row[key] for row in scores.values()), key=column.rank) for key, column in COLUMNS.items()}
    lines = [
        "| | " + " | ".join(column.title for column in COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for name, metrics in scores.items():
        cells = [f"{name} {WITHOUT_R2PRIME}" if name in without_r2prime else name]
        for key, column in COLUMNS.items():
            text = f"{metrics[key]:.{column.decimals}f}"
            cells.append(f"**{text}**" if metrics[key] == best[key] else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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
