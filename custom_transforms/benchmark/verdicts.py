"""Measured figures beside what they are held to, as a table with a verdict in each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

NO_BOUNDS = (-math.inf, math.inf)


@dataclass(frozen=True)
class Figure:
    """What was measured of one head, its least and greatest value that meet the target, and what set them there."""

    what: str
    value: float
    bounds: tuple[float, float] = NO_BOUNDS
    bound_by: str = ""


def verdict(figures: Sequence[Figure]) -> str:
    """Say whether a target is met: in every head, on average over the heads, or not; a dash if there is no bound."""
    lows, highs = zip(*(figure.bounds for figure in figures), strict=True)
    if (lows[0], highs[0]) == NO_BOUNDS:
        return "–"
    if all(low <= figure.value <= high for figure, low, high in zip(figures, lows, highs, strict=True)):
        return "yes"
    mean = sum(figure.value for figure in figures)
    return "on average" if sum(lows) <= mean <= sum(highs) else "no"


def cell(figures: Sequence[Figure]) -> str:
    """Write mean and range of the values, and the mean of bounds that were measured."""
    values = [figure.value for figure in figures]
    if not values:
        return "–"
    text = f"{sum(values) / len(values):.4g}"
    if len(values) > 1:
        text += f" [{min(values):.4g}, {max(values):.4g}]"
    if figures[0].bound_by:
        bounds = [next(filter(math.isfinite, figure.bounds)) for figure in figures]
        text += f"; bound {sum(bounds) / len(bounds):.4g}"
    return text


def aim(figures: Sequence[Figure]) -> str:
    """Write the bounds."""
    low, high = figures[0].bounds
    by = ", ".join(sorted({figure.bound_by for figure in figures}))
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    if math.isfinite(low):
        return f"≥ {by or format(low, 'g')}"
    return f"≤ {by or format(high, 'g')}" if math.isfinite(high) else "–"


def table(cohort: Sequence[Sequence[Figure]], fresh: Sequence[Sequence[Figure]]) -> str:
    """Write the figures of the heads of the cohort, and of the fresh ones, as a Markdown table."""
    lines = ["| what | target | measured cohort | measured fresh | met? |", "|---|---|---|---|---|"]
    for what in dict.fromkeys(figure.what for figures in (*cohort, *fresh) for figure in figures):
        groups = [
            [figure for figures in heads for figure in figures if figure.what == what] for heads in (cohort, fresh)
        ]
        both = groups[0] + groups[1]
        lines.append(f"| {what} | {aim(both)} | {' | '.join(map(cell, groups))} | {verdict(both)} |")
    return "\n".join(lines)


def raw(figures: Mapping[str, Sequence[Figure]]) -> dict[str, list[dict[str, Any]]]:
    """Give the figures of each head for a JSON file, which knows neither infinity nor NaN."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        name: [asdict(f) | {"value": finite(f.value), "bounds": [*map(finite, f.bounds)]} for f in of_head]
        for name, of_head in figures.items()
    }
