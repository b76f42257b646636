"""What a benchmark writes: scoreboard.md, scores.csv and the figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from custom_transforms.benchmark.measurement import Failure, Result
from custom_transforms.benchmark.scoring import METRICS
from custom_transforms.keys import R2STAR
from custom_transforms.report.benchmark_figures import SOURCES, save_error_maps_figure, save_regression_figure
from custom_transforms.report.scores import (
    DETAIL_COLUMNS,
    MAIN_COLUMNS,
    MEAN_RELAXIVITY,
    WITHOUT_R2PRIME,
    Column,
    Scores,
    save_scores_figure,
    scores_table,
)

PAGE, CSV = "scoreboard.md", "scores.csv"
BARS, ERRORS, REGRESSION = "scores.png", "errors.png", "regression.png"


def mean_scores(results: Sequence[Result]) -> Scores:
    """Give for each variant the means of its metrics over the cases that have them, the least NRMSE first.

    Args:
        results: of any cases and variants.

    Returns:
        All METRICS, NaN where no case has one.
    """
    scores = {
        variant: {metric: _mean(r.metrics[metric] for r in own if metric in r.metrics) for metric in METRICS}
        for variant, own in _by_variant(results).items()
    }
    return dict(sorted(scores.items(), key=lambda item: item[1]["nrmse_para"] + item[1]["nrmse_dia"]))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def _by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    variants: dict[str, list[Result]] = {}
    for result in results:
        variants.setdefault(result.variant, []).append(result)
    return variants


def known_columns(columns: Mapping[str, Column], scores: Scores) -> dict[str, Column]:
    """Keep the columns that have a number for any variant."""
    return {
        name: column
        for name, column in columns.items()
        if not all(math.isnan(metrics[name]) for metrics in scores.values())
    }


def marks(results: Sequence[Result]) -> dict[str, set[str]]:
    """Say which variants bear a mark, as :func:`custom_transforms.report.scores.scores_table` takes it."""
    return {
        "without_r2prime": {result.variant for result in results if result.rate == R2STAR},
        "mean_relaxivity": {result.variant for result in results if result.mean_relaxivity},
    }


def tables(results: Sequence[Result]) -> str:
    """Write both tables of a benchmark in Markdown."""
    scores = mean_scores(results)
    written = [
        scores_table(scores, **marks(results), columns=known_columns(columns, scores))
        for columns in (MAIN_COLUMNS, DETAIL_COLUMNS)
    ]
    return "\n".join(written)


def describe(results: Sequence[Result], *, jobs: int) -> str:
    """Say how the numbers of the tables are to be read, in lines of Markdown."""
    cases = len({result.case for result in results})
    lines = [
        f"Means over {cases} case{'s' * (cases != 1)}, in the brain mask; bold: best. Deep grey linearity is "
        "|1 - slope| over the nuclei; slopes are those of means against the truth, 1 is best.",
        "Wall time: from the call to the last file, reading and figure included. Peak memory: of the whole process. "
        f"Hardware: {'; '.join(sorted({result.hardware for result in results}))}.",
    ]
    if jobs > 1:
        lines.append(f"{jobs} variants ran at a time: the wall times are those of a shared machine.")
    return "\n\n".join([*lines, *legend(results)]) + "\n"


def legend(results: Sequence[Result]) -> list[str]:
    """Explain the marks that the results have."""
    found = marks(results)
    lines = [f"{WITHOUT_R2PRIME} from R2* in the place of R2'."] if found["without_r2prime"] else []
    if found["mean_relaxivity"]:
        lines.append(f"{MEAN_RELAXIVITY} learnt a single relaxivity: where there are two, it got their mean.")
    return lines


def notes(left_out: Sequence[str], failures: Sequence[Failure]) -> str:
    """Name what is not in the tables, in lines of Markdown."""
    lines = [f"Left out, as they have no weights: {', '.join(left_out)}."] if left_out else []
    lines += [f"Failed, and not in the tables: {f.variant}, {f.case}: {f.reason}" for f in failures]
    return "".join(f"\n{line}\n" for line in lines)


def complete(results: Sequence[Result], failures: Sequence[Failure]) -> list[Result]:
    """Keep the results of the variants that failed nowhere: means are over the same cases for all."""
    failed = {failure.variant for failure in failures}
    return [result for result in results if result.variant not in failed]


def save_figures(folder: Path, results: Sequence[Result]) -> None:
    """Draw the scores, the error maps of the first case, and the means of regions if there are any.

    Args:
        folder: where BARS, ERRORS and REGRESSION go.
        results: of any cases and variants.
    """
    scores = mean_scores(results)
    save_scores_figure(folder / BARS, scores, without_r2prime=marks(results)["without_r2prime"])
    shown = {result.variant: result.slices() for result in results if result.case == results[0].case}
    truth, _, aspect = next(iter(shown.values()))
    estimates = {name: shown[name][1] for name in scores}
    save_error_maps_figure(folder / ERRORS, truth, estimates, aspect=aspect)
    if all(result.region_means for result in results):
        own = _by_variant(results)
        points = {
            name: {source: np.concatenate([result.region_means[source] for result in own[name]]) for source in SOURCES}
            for name in scores
        }
        save_regression_figure(folder / REGRESSION, points)


def write_csv(path: Path, results: Mapping[str, Sequence[Result]], *, group: str | None = None) -> None:
    """Write one line for each case, variant and metric, in full precision.

    Args:
        path: file to write.
        results: of each group of cases, by its name.
        group: title of the column of the groups; None leaves it out.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*([group] if group else []), "case", "variant", "metric", "value"])
        for name, own in results.items():
            for r in own:
                writer.writerows([*([name] if group else []), r.case, r.variant, *item] for item in r.metrics.items())


def write_scoreboard(
    folder: Path, results: Sequence[Result], failures: Sequence[Failure], *, left_out: Sequence[str], jobs: int
) -> str:
    """Write the page, its numbers and its figures.

    Args:
        folder: where they go.
        results: of all cases and variants.
        failures: what could not be measured.
        left_out: variants without weights.
        jobs: how many variants ran at a time.

    Returns:
        The page.
    """
    whole = complete(results, failures)
    write_csv(folder / CSV, {"": results})
    text = ""
    if whole:
        save_figures(folder, whole)
        text = f"{tables(whole)}\n{describe(whole, jobs=jobs)}"
    text += notes(left_out, failures)
    drawn = [name for name in (BARS, ERRORS, REGRESSION) if (folder / name).is_file()]
    page = f"# Scoreboard\n\n{text}" + "".join(f"\n![{Path(name).stem}]({name})\n" for name in drawn)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return text
