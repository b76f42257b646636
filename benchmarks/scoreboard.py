"""Every variant on simulated heads under several conditions, files to files: makes benchmarks/scoreboard.md.

Each condition changes what it names of the first one; the heads are the same in all of them. Data sets and results are
kept in --work, so that an interrupted run goes on where it stopped; the page is written after every condition.

Usage: python benchmarks/scoreboard.py [--work bundle/runs/scoreboard] [--variants all] [--subjects 1] [--seed 0]
    [--coarse 1] [--device auto] [--jobs 1] [--output benchmarks]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from custom_transforms.benchmark.command import measure_all, plan
from custom_transforms.benchmark.measurement import Failure, Result
from custom_transforms.benchmark.page import (
    BARS,
    CSV,
    ERRORS,
    PAGE,
    REGRESSION,
    complete,
    describe,
    legend,
    marks,
    mean_scores,
    notes,
    save_figures,
    tables,
    write_csv,
)
from custom_transforms.bundle_path import bundle_path
from custom_transforms.checks import InputError
from custom_transforms.options import choose_device, choose_variants
from custom_transforms.output import staged_folder
from custom_transforms.provenance import versions
from custom_transforms.report.scores import marked
from custom_transforms.simulate import simulate

FIGURES = "scoreboard"


@dataclass(frozen=True)
class Condition:
    """One way to measure the heads."""

    snr: float = 100.0
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tilt_deg: float = 0.0
    relaxivity_dia_per_s_ppm: float = 137.0


BASE = "SNR 100, 1 mm, axial, Dr 137"
CONDITIONS = {
    BASE: Condition(),
    "SNR 40": Condition(snr=40.0),
    "SNR 300": Condition(snr=300.0),
    "0.8 x 0.8 x 2 mm": Condition(voxel_size_mm=(0.8, 0.8, 2.0)),
    "oblique, 30 degrees": Condition(tilt_deg=30.0),
    "Dr 137 and 110": Condition(relaxivity_dia_per_s_ppm=110.0),
    "all of it at SNR 40": Condition(40.0, (0.8, 0.8, 2.0), 30.0, 110.0),
}
RELAXIVITY_PARA_PER_S_PPM = 137.0

Outcome = tuple[list[Result], list[Failure]]


def simulated_dataset(work: Path, condition: Condition, *, subjects: int, seed: int, coarse: float) -> Path:
    """Give the data set of a condition, simulated unless it is there.

    Args:
        work: where data sets are kept.
        condition: how the heads are measured.
        subjects: number of heads.
        seed: of the heads.
        coarse: factor of the voxel size.
    """
    settings = {**asdict(condition), "subjects": subjects, "seed": seed, "coarse": coarse, "by": versions()["chisep"]}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    x, y, z = condition.voxel_size_mm
    dataset, unfinished = work / digest, work / f"{digest}.part"
    if not dataset.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        simulate(
            output=str(unfinished),
            subjects=subjects,
            seed=seed,
            voxel_size=(coarse * x, coarse * y, coarse * z),
            tilt_deg=condition.tilt_deg,
            snr=condition.snr,
            relaxivity_para=RELAXIVITY_PARA_PER_S_PPM,
            relaxivity_dia=condition.relaxivity_dia_per_s_ppm,
        )
        unfinished.rename(dataset)
    return dataset


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """Write the NRMSE of both sources for each variant and condition as a Markdown table, the best in bold."""
    scores = {name: mean_scores(complete(*outcome)) for name, outcome in outcomes.items()}
    everything = [result for results, _ in outcomes.values() for result in results]
    best = {name: min((_mean_nrmse(row) for row in rows.values()), default=math.nan) for name, rows in scores.items()}
    lines = [f"| NRMSE %, chi_para / chi_dia | {' | '.join(outcomes)} |", "|---|" + "---|" * len(outcomes)]
    for variant in dict.fromkeys(variant for rows in scores.values() for variant in rows):
        cells = []
        for name, rows in scores.items():
            row = rows.get(variant)
            text = f"{row['nrmse_para']:.1f} / {row['nrmse_dia']:.1f}" if row else "–"
            cells.append(f"**{text}**" if row and _mean_nrmse(row) == best[name] else text)
        lines.append(f"| {marked(variant, **marks(everything))} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "\n\n".join(["Bold: least mean of both.", *legend(everything)]), ""])


def _mean_nrmse(scores: Mapping[str, float]) -> float:
    return (scores["nrmse_para"] + scores["nrmse_dia"]) / 2


def write_page(folder: Path, outcomes: Mapping[str, Outcome], *, made: str, left_out: Sequence[str], jobs: int) -> None:
    """Write scoreboard.md, and scoreboard/ with the numbers and the figures of the first condition.

    Args:
        folder: where they go.
        outcomes: results and failures of each condition so far.
        made: how, in a line.
        left_out: variants without weights.
        jobs: how many variants ran at a time.
    """
    base, failures = next(iter(outcomes.values()))
    whole = complete(base, failures)
    parts = ["# Scoreboard", made, "Each condition changes what it names of the first one; the heads are the same."]
    parts += [summary(outcomes), f"## {next(iter(outcomes))}"]
    with staged_folder(folder) as stage:
        (stage / FIGURES).mkdir()
        write_csv(stage / FIGURES / CSV, {name: results for name, (results, _) in outcomes.items()}, group="condition")
        if whole:
            save_figures(stage / FIGURES, whole)
            parts += [tables(whole), describe(whole, jobs=jobs)]
        drawn = [name for name in (BARS, ERRORS, REGRESSION) if (stage / FIGURES / name).is_file()]
        parts += [f"![{Path(name).stem}]({FIGURES}/{name})" for name in drawn]
        failed = [Failure(f.case, f"{f.variant}, {name}", f.reason) for name, (_, fs) in outcomes.items() for f in fs]
        text = "\n\n".join(part.strip("\n") for part in [*parts, notes(left_out, failed)] if part.strip("\n"))
        (stage / PAGE).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Simulate, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=bundle_path() / "runs" / "scoreboard", help="keeps data sets and results"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--variants", default="all", help="names with commas between them")
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coarse", type=float, default=1.0, help="factor of the voxel size, for a quick check")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time; more than one disturbs wall times")
    arguments = parser.parse_args()
    made = f"`python benchmarks/scoreboard.py {shlex.join(sys.argv[1:])}".strip() + "`"
    made += f", torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    if arguments.coarse != 1:
        made += f". A quick check: voxels are {arguments.coarse:g} times as wide as they are called"
    outcomes: dict[str, Outcome] = {}
    try:
        device, (variants, left_out) = str(choose_device(arguments.device)), choose_variants(arguments.variants)
        for name, condition in CONDITIONS.items():
            print(name, file=sys.stderr)
            dataset = simulated_dataset(
                arguments.work, condition, subjects=arguments.subjects, seed=arguments.seed, coarse=arguments.coarse
            )
            planned = plan(str(dataset), variants, device=device, jobs=arguments.jobs)
            outcomes[name] = measure_all(planned, arguments.work / "results", jobs=arguments.jobs)
            write_page(arguments.output, outcomes, made=made, left_out=left_out, jobs=arguments.jobs)
    except (InputError, FileNotFoundError) as error:
        parser.error(str(error))
    if any(failures for _, failures in outcomes.values()):
        parser.error(f"some variants failed; see {arguments.output / PAGE}")


if __name__ == "__main__":
    main()
