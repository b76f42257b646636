"""The table of regions of the report: a row for each region, a column for each map, and the same as TSV."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class RegionRow(NamedTuple):
    """A value of the table of regions.

    Attributes:
        region: name of the region.
        quantity: name of the map.
        unit: of the value and the norm.
        value: mean or median of the map in the region.
        norm_mean: mean of healthy subjects, if known.
        norm_sd: standard deviation among them.
        z: (value - norm_mean) / norm_sd, if known.
        volume_mm3: of the region, if known.
    """

    region: str
    quantity: str
    unit: str
    value: float
    norm_mean: float | None = None
    norm_sd: float | None = None
    z: float | None = None
    volume_mm3: float | None = None


def region_table(rows: Iterable[RegionRow]) -> dict[str, Any]:
    """Give rows by region and quantity, the quantities with unit and decimals, and the rows as TSV in a data URI."""
    table: dict[str, dict[str, RegionRow]] = {}
    columns: dict[str, list[RegionRow]] = {}
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(RegionRow._fields)
    for row in rows:
        table.setdefault(row.region, {})[row.quantity] = row
        columns.setdefault(row.quantity, []).append(row)
        writer.writerow(["n/a" if value is None else value for value in row])
    tsv = base64.b64encode(text.getvalue().encode()).decode("ascii")
    return {
        "regions": table,
        "quantities": {name: (column[0].unit, _decimals(column)) for name, column in columns.items()},
        "tsv": f"data:text/tab-separated-values;charset=utf-8;base64,{tsv}",
    }


def _decimals(column: Iterable[RegionRow]) -> int:
    """Count the decimals that show four digits of the largest value, so that all of a column have as many."""
    largest = max((abs(row.value) for row in column if math.isfinite(row.value)), default=0.0)
    return max(3 - math.floor(math.log10(largest)), 0) if largest > 0 else 0
