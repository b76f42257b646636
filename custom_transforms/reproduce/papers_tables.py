"""Tables of the page of the papers: what was measured on every head, collected; written as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import mean, stdev
from typing import Any

import torch

from custom_transforms.metrics import fit_line
from custom_transforms.phantom.ms_lesions import MS_KINDS, ms_kind
from custom_transforms.reproduce.ms_reading import Reading, agreement_percent
from custom_transforms.reproduce.papers_studies import ORIENTATION_SD, QSM_METRICS, SOURCE_METRICS, SOURCES

Results = dict[str, dict[str, list[dict[str, Any]]]]
"""Of each study and pipeline: what was measured, one entry a head."""

DIGITS = {"NRMSE, %": 1, "HFEN, %": 1, "PSNR, dB": 2, "SSIM": 4, ORIENTATION_SD: 2, "lesions": 0}
MAPS = {"chi_para": "chi_para, %", "chi_dia": "chi_dia, %"}
NO_VALUE = "–"


@dataclass
class Table:
    """Numbers by row and column; a cell holds all its samples and shows mean ± SD.

    Attributes:
        labels: headings of the columns that name a row.
        columns: headings of the others.
        rows: samples by column, by the names of the row.
    """

    labels: Sequence[str]
    columns: Sequence[str]
    rows: dict[tuple[str, ...], dict[str, list[float]]] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [[*self.labels, *self.columns], ["---"] * (len(self.labels) + len(self.columns))]
        lines += [[*row, *(_cell(cells, column) for column in self.columns)] for row, cells in self.rows.items()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """The table as CSV, with the mean, the SD and the number of samples of each column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.labels, *chain(*((c, f"{c}: SD", f"{c}: samples") for c in self.columns))])
        for row, cells in self.rows.items():
            writer.writerow([*row, *chain(*(_numbers(cells.get(column, [])) for column in self.columns))])
        return text.getvalue()

    def means(self, column: str) -> dict[tuple[str, ...], float]:
        """The mean of a column in every row that has one."""
        return {row: mean(cells[column]) for row, cells in self.rows.items() if cells.get(column)}


def qsm_table(results: Results) -> Table:
    """Errors of chi_total over heads and orientations, and its SD over orientations, by method."""
    table = Table(["method"], [*QSM_METRICS, ORIENTATION_SD])
    for method, heads in results["qsm"].items():
        samples = {column: list(chain(*(head.get(column, []) for head in heads))) for column in table.columns}
        table.rows[(method,)] = samples
    return table


def source_table(results: Results) -> Table:
    """Errors of each source over heads, by method."""
    table = Table(["source", "method"], list(SOURCE_METRICS))
    for source in SOURCES:
        for method, heads in results["sources"].items():
            table.rows[source, method] = {column: [head[source][column] for head in heads] for column in table.columns}
    return table


def readings_of(results: Results, method: str) -> dict[int, Reading]:
    """The readings of all lesions of all heads; numbered through, so that `ms_kind` still gives the kind."""
    heads = results["ms_lesions"][method]
    step = len(MS_KINDS) * max((int(number) for head in heads for number in head), default=0)
    return {
        i * step + int(number): Reading(**reading) for i, head in enumerate(heads) for number, reading in head.items()
    }


def agreement_table(results: Results, pairs: Sequence[tuple[str, str]]) -> Table:
    """Share of the MS lesions that two methods read the same, for those pairs that were both measured."""
    table = Table(["first", "second"], ["lesions", *MAPS.values()])
    for first, second in pairs:
        if {first, second} <= results["ms_lesions"].keys():
            one, other = readings_of(results, first), readings_of(results, second)
            shares = {column: [agreement_percent(one, other, source)] for source, column in MAPS.items()}
            table.rows[first, second] = {"lesions": [len(one)], **shares}
    return table


def reading_table(results: Results, method: str) -> Table:
    """How many lesions of each kind a method reads as what."""
    levels = ("hyper", "iso", "hypo")
    columns = [*(f"{source} {level}" for source in SOURCES for level in levels), "rim"]
    table = Table(["kind"], ["lesions", *columns])
    readings = readings_of(results, method)
    for kind in MS_KINDS:
        of_kind = [reading for number, reading in readings.items() if ms_kind(number) == kind]
        seen = [f"chi_para {r.para}" for r in of_kind] + [f"chi_dia {r.dia}" for r in of_kind]
        seen += ["rim" for r in of_kind if r.rim]
        table.rows[(kind,)] = {"lesions": [len(of_kind)], **{name: [seen.count(name)] for name in columns}}
    return table


def bleed_table(results: Results) -> Table:
    """The line through the means of all haemorrhages, and of all microbleeds, by method."""
    table = Table(["lesions", "method"], ["number", "slope", "intercept, ppm", "R2"])
    for study in ("haemorrhages", "microbleeds"):
        for method, heads in results[study].items():
            truth, found = (torch.tensor(list(chain(*(head[name] for head in heads)))) for name in ("truth", "found"))
            fit = fit_line(truth, found)
            values = (len(truth), float(fit.slope), float(fit.intercept), float(fit.r_squared))
            table.rows[study, method] = {name: [value] for name, value in zip(table.columns, values, strict=True)}
    return table


def _cell(cells: Mapping[str, list[float]], column: str) -> str:
    values = cells.get(column, [])
    if not values:
        return NO_VALUE
    digits = 0 if isinstance(values[0], int) else DIGITS.get(column, 1 if column.endswith("%") else 3)
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _numbers(values: list[float]) -> tuple[Any, Any, int]:
    return (mean(values) if values else "", stdev(values) if len(values) > 1 else "", len(values))
