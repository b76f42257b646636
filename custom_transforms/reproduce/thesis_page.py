"""thesis.md: settings, Table 2.1 beside ours, a verdict on each claim with its figure, and all methods in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from custom_transforms.reproduce import thesis_figures as figures
from custom_transforms.reproduce.thesis_assembly import (
    NETWORKS,
    by_iterations,
    mean_scores,
    recoveries,
    verdicts,
)
from custom_transforms.reproduce.thesis_cases import COSMOS
from custom_transforms.reproduce.thesis_results import (
    LEARNT,
    UNSETTLED,
    Result,
    changes_per_subject,
    iterations_per_subject,
    of_model,
    per_head,
)
from custom_transforms.reproduce.thesis_runs import BASELINE, FAST_ALPHA, OURS, UNROLLED
from custom_transforms.reproduce.thesis_tables import lesion_table, methods_table, published_table, trainings_table
from custom_transforms.reproduce.thesis_verdicts import OPEN, Verdict

CLAIMS = "abcdefgh"
FIGURES = {  # file: the claims that it shows, and its caption
    "thesis_iterations.png": (
        ("a",),
        "Estimates and errors after some iterations, first test head (Figures 2.2 and 2.3 of the thesis)",
    ),
    "thesis_curves.png": (
        ("b", "c"),
        "Error, signed error and change of every iteration; thin: single subjects (Figure 2.4 of the thesis)",
    ),
    "thesis_ablations.png": (("d", "e", "g"), "Left: what iterations give and cost. Right: how the networks differ"),
    "thesis_alpha.png": (("f",), "alpha over the epochs"),
    "thesis_lesions.png": (
        ("h.1", "h.2", "h.4"),
        "Recovery of lesions, exact maps; dotted: identity (Figure 2.5 of the thesis)",
    ),
}


def write_page(folder: Path, results: Sequence[Result], hardware: str) -> None:
    """Write thesis.md and its figures.

    Args:
        folder: of the reproduction.
        results: all that were measured.
        hardware: name of the machine.
    """
    drawn = _draw(folder, results)
    parts = [
        "# The unrolled chi-sepnet of Kim 2023, reproduced\n\nWritten by `chisep reproduce thesis`; every number was "
        "measured in one run of it, but for those marked as published.",
        _settings(folder, results, hardware),
        "## Table 2.1\n\nMean ± SD over heads, orientations and seeds, against the COSMOS labels, without "
        "cerebrospinal fluid and veins. The scales of the published PSNR and SSIM are not stated: compare NRMSE, and "
        "differences between models.\n\n" + published_table(results),
        "## Claims\n\n"
        "A claim is left open if a training that it rests on was not over: the validation error has to fall to "
        f"{100 * LEARNT:.0f} % of that before training, and by less than {100 * UNSETTLED:.0f} % of itself in the last "
        "quarter of the epochs. A difference is real if it exceeds two standard errors, over subjects or of lines.\n\n"
        + _claims(verdicts(results), drawn),
        "## All methods\n\nNRMSE in percent, mean ± SD, absolute and with the means subtracted.\n\n"
        + methods_table(results),
        "## Lesions\n\n" + lesion_table(results),
    ]
    (folder / "thesis.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _draw(folder: Path, results: Sequence[Result]) -> set[str]:
    """Draw the figures that the results allow, and give their names."""
    unrolled, counts = of_model(results, UNROLLED), by_iterations(results)
    if unrolled:
        slices = np.load(folder / "results" / "slices.npz")
        figures.save_iterations(folder / "thesis_iterations.png", slices["label"], slices["iterations"])
        curves = [iterations_per_subject(unrolled, metric, COSMOS) for metric in ("nrmse", "mean_error")]
        figures.save_curves(folder / "thesis_curves.png", curves[0], curves[1], changes_per_subject(unrolled))
        alphas = {f"{r.model}, seed {r.seed}": r.alpha() for m in (UNROLLED, FAST_ALPHA) for r in of_model(results, m)}
        figures.save_alpha(folder / "thesis_alpha.png", alphas)
        scores = {model: mean for model in NETWORKS if (mean := mean_scores(results, model))}
        gain = {n: (float(per_head(o, "nrmse", COSMOS).mean()), o[0].cost["step_seconds"]) for n, o in counts.items()}
        figures.save_ablations(folder / "thesis_ablations.png", scores, UNROLLED, gain)
    shown = [model for model in (BASELINE, UNROLLED, OURS) if of_model(results, model)]
    figures.save_lesions(folder / "thesis_lesions.png", {model: recoveries(results, model) for model in shown})
    return {name for name in FIGURES if unrolled or name == "thesis_lesions.png"}


def _settings(folder: Path, results: Sequence[Result], hardware: str) -> str:
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    lists = json.loads((folder / "cohort" / "cosmos.json").read_text(encoding="utf-8"))
    volumes = ", ".join(f"{len(cases)} {section}" for section, cases in lists.items())
    trained = [result for result in results if result.steps]
    steps = {result.steps for result in trained}
    counts = ", ".join(map(str, sorted(steps))) or "none yet"
    size = settings["patch_size"]
    lines = [
        f"- Cohort: `chisep simulate`, {settings['voxel_size_mm']:g} mm isotropic, {settings['orientations']} head "
        f"orientations, SNR 100; {volumes} volumes, split by subject. Labels: COSMOS and non-negative least squares.",
        f"- Training: {settings['epochs']} epochs, batch 1, "
        + ("whole volumes" if size is None else f"patches of {size}^3")
        + f" brought to the axial frame, random model-based rotation; optimiser steps of each network: {counts}.",
        f"- Networks: U-Nets of {settings['width']} to {16 * settings['width']} channels, "
        + ("bfloat16" if settings["amp"] else "float32")
        + "; weights of the epoch with the lowest validation NRMSE; QSMnet frozen, trained first on the same volumes.",
        f"- Hardware: {hardware}, torch {torch.__version__}.",
    ]
    return "## Settings\n\n" + "\n".join(lines) + "\n\n" + trainings_table(trained)


def _claims(found: Sequence[Verdict], drawn: set[str]) -> str:
    letters = [verdict.claim for verdict in found]
    rows = {v.claim: f"| ({v.claim}) {v.statement} | **{v.outcome}** |" for v in found}
    for letter in CLAIMS:
        if letter not in {claim[0] for claim in letters}:
            rows[letter] = f"| ({letter}) | **{OPEN}**: its networks were not trained |"
    parts = ["\n".join(["| claim | verdict |", "|---|---|", *(rows[claim] for claim in sorted(rows))])]
    for verdict in found:
        text = f"### ({verdict.claim}) {verdict.statement}: {verdict.outcome}\n\n"
        text += f"Criterion: {verdict.criterion}.\n\nMeasured: {verdict.numbers}."
        for name, (claims, caption) in FIGURES.items():
            if name in drawn and verdict.claim in claims:
                first = verdict.claim == next(c for c in claims if c in letters)
                text += f"\n\n![{caption}]({name})\n\n{caption}." if first else f"\n\nFigure: [{name}]({name})."
        parts.append(text)
    return "\n\n".join(parts)
