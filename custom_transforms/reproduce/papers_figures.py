"""Figures of the page of the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from custom_transforms.reproduce.papers_tables import Results, Table

DOTS_PER_INCH = 120


def save_orientation_figure(path: Path, results: Results) -> None:
    """NRMSE of chi_total against the angle by which the head was turned; a dot for each head and orientation.

    A method that makes one map of all orientations is a line.

    Args:
        path: file to write.
        results: with the study "qsm".
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for method, heads in results["qsm"].items():
        pairs = [pair for head in heads for pair in zip(head["angle_deg"], head["NRMSE, %"], strict=True)]
        angles, errors = zip(*pairs, strict=True)
        if any(angles):
            axes.plot(angles, errors, "o", label=method, markersize=4)
        else:  # one map of all orientations
            axes.axhline(sum(errors) / len(errors), label=method, color="black", linestyle="--")
    axes.set(xlabel="angle to the first orientation, degrees", ylabel="NRMSE of chi_total, %")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=DOTS_PER_INCH)


def save_bars_figure(path: Path, table: Table, panels: Mapping[str, Sequence[tuple[str, ...]]], column: str) -> None:
    """A column of a table as bars, the samples as dots on them.

    Args:
        path: file to write.
        table: the table.
        panels: the rows of each panel, by its title.
        column: heading of the column.
    """
    longest = max(len(rows) for rows in panels.values())
    figure = Figure(figsize=(5 * len(panels), 1.2 + 0.4 * longest), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for position, row in enumerate(rows):
            samples = table.rows[row][column]
            axes.barh(position, sum(samples) / len(samples), color="0.8")
            axes.plot(samples, [position] * len(samples), "o", color="black", markersize=3)
        axes.set_yticks(range(len(rows)), [row[-1] for row in rows])
        axes.set(title=title, xlabel=column)
        axes.invert_yaxis()
    figure.savefig(path, dpi=DOTS_PER_INCH)


def save_agreement_figure(path: Path, table: Table, columns: Sequence[str]) -> None:
    """The shares of lesions read the same, one panel for each source.

    Args:
        path: file to write.
        table: as `agreement_table` gives it.
        columns: headings of the shares.
    """
    figure = Figure(figsize=(6 * len(columns), 1.2 + 0.4 * len(table.rows)), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        shares = [cells[column][0] for cells in table.rows.values()]
        bars = axes.barh([" – ".join(row) for row in table.rows], shares, color="0.8")
        axes.bar_label(bars, fmt="%.1f", padding=-30)
        axes.set(title=column, xlim=(0, 100))
    axes.invert_yaxis()
    figure.savefig(path, dpi=DOTS_PER_INCH)


def save_bleeds_figure(path: Path, results: Results) -> None:
    """Mean of each haemorrhage and microbleed against the truth, one panel for each method.

    Args:
        path: file to write.
        results: with the studies "haemorrhages" and "microbleeds".
    """
    methods = list(results["haemorrhages"])
    columns = min(4, len(methods))
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(3 * columns, 3 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, method in zip(grid, methods, strict=False):
        for study, marker in (("haemorrhages", "o"), ("microbleeds", "x")):
            heads = results[study][method]
            truth, found = (torch.tensor([v for head in heads for v in head[name]]) for name in ("truth", "found"))
            axes.plot(truth, found, marker, markersize=4, label=study)
        axes.axline((0, 0), slope=1, color="0.7", linewidth=1)
        axes.set_title(method, fontsize=9)
    for axes in grid[len(methods) :]:
        axes.set_axis_off()
    grid[0].legend(fontsize=8)
    figure.supxlabel("truth, ppm")
    figure.supylabel("found, ppm")
    figure.savefig(path, dpi=DOTS_PER_INCH)
