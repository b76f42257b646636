"""The tables of thesis.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from custom_transforms.phantom.lesions import KINDS
from custom_transforms.reproduce.thesis_assembly import MODELS, recoveries
from custom_transforms.reproduce.thesis_cases import COSMOS, LESION_CHI_PPM, LESION_SNR, LESIONS_A_HEAD, TRUTH
from custom_transforms.reproduce.thesis_results import Result, of_model, per_head
from custom_transforms.reproduce.thesis_runs import BASELINE, OURS, QSMNET, UNROLLED

PUBLISHED = {  # Kim 2023, Table 2.1: mean and SD of NRMSE (%), PSNR (dB) and SSIM
    BASELINE: (((33.72, 2.77), (47.45, 0.94), (0.94322, 0.00592)), ((35.79, 2.62), (48.17, 0.70), (0.94179, 0.00506))),
    UNROLLED: (((33.46, 2.83), (47.52, 0.98), (0.94307, 0.00600)), ((35.33, 2.72), (48.28, 0.78), (0.94246, 0.00536))),
}
METRICS = {"nrmse": ".2f", "psnr": ".2f", "ssim": ".5f"}
_SOURCES = ("chi_para", "chi_dia")
_NAMES = {
    BASELINE: "chi-sepnet-R2'",
    UNROLLED: "unrolled chi-sepnet-R2'",
    QSMNET: "QSMnet, then algebra",
    OURS: "`unrolled`, trained on random shapes, never on heads",
}


def trainings_table(trained: Sequence[Result]) -> str:
    """Write steps and validation errors of all trainings."""
    lines = ["| training | seed | steps | best epoch | validation NRMSE, %: before, best, last |", "|---" * 5 + "|"]
    for result in trained:
        errors = [float(row["nrmse"]) for row in result.epochs]
        numbers = ", ".join(f"{error:.1f}" for error in (errors[0], min(errors), errors[-1]))
        name = _NAMES.get(result.model, result.model)
        lines.append(f"| {name} | {result.seed} | {result.steps} | {int(np.argmin(errors))} | {numbers} |")
    return "\n".join(lines)


def _mean_sd(values: NDArray, form: str) -> str:
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1) if len(values) > 1 else 0:{form}}"


def published_table(results: Sequence[Result]) -> str:
    """Write Table 2.1 with our numbers below the published ones."""
    lines = ["| | | NRMSE, % | PSNR, dB | SSIM |", "|---|---|---|---|---|"]
    for source, name in enumerate(_SOURCES):
        for model, published in PUBLISHED.items():
            cells = [
                f"{mean:{f}} ± {sd:{f}}" for (mean, sd), f in zip(published[source], METRICS.values(), strict=True)
            ]
            lines.append(f"| {name}, {_NAMES[model]} | published | {' | '.join(cells)} |")
            lines.append(f"| | ours | {' | '.join(_scores(results, model, source))} |")
        lines.append(f"| {name}, {_NAMES[OURS]} | ours | {' | '.join(_scores(results, OURS, source))} |")
    return "\n".join(lines)


def _scores(results: Sequence[Result], model: str, source: int, reference: str = COSMOS) -> list[str]:
    own = of_model(results, model)
    if not own:
        return ["not trained"] * len(METRICS)
    return [_mean_sd(per_head(own, metric, reference)[:, source], form) for metric, form in METRICS.items()]


def methods_table(results: Sequence[Result]) -> str:
    """Write the NRMSE of all methods."""
    columns = [f"{source}, {reference}" for reference in (COSMOS, TRUTH) for source in _SOURCES]
    lines = [f"| | {' | '.join(columns)} | demeaned, {TRUTH} |", "|---" * (len(columns) + 2) + "|"]
    for model in MODELS:
        own = of_model(results, model)
        if own:
            values = [per_head(own, "nrmse", reference)[:, i] for reference in (COSMOS, TRUTH) for i in range(2)]
            demeaned = per_head(own, "nrmse_demeaned", TRUTH).mean(axis=0)
            cells = [*(_mean_sd(v, ".1f") for v in values), " / ".join(f"{v:.1f}" for v in demeaned)]
            lines.append(f"| {_NAMES.get(model, model)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def lesion_table(results: Sequence[Result]) -> str:
    """Write the recovery of lesions by all methods."""
    low, high = LESION_CHI_PPM
    columns = [f"{kind}, {condition}" for condition in LESION_SNR for kind in KINDS]
    lines = [
        f"{LESIONS_A_HEAD} lesions in each test head, {low} to {high} ppm. Slope ± standard error, and R2.\n",
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for model in MODELS:
        if of_model(results, model):
            fits = [recoveries(results, model, condition)[kind] for condition in LESION_SNR for kind in KINDS]
            cells = [f"{fit.slope:.3f} ± {fit.slope_error:.3f}, {fit.r_squared:.3f}" for fit in fits]
            lines.append(f"| {_NAMES.get(model, model)} | {' | '.join(cells)} |")
    return "\n".join(lines)
