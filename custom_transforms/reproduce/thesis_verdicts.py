"""Verdicts on claims (a) to (g) of Kim 2023, each by a stated criterion.

The thresholds of comparisons were fixed before the first results; when a training counts as over, and alpha as settled,
after first partial results had shown trainings that were not.
Numbers are compared over subjects: every subject's mean over its head orientations, paired between models. A difference
is real if it exceeds two standard errors. Errors are NRMSE against the COSMOS labels, as in the thesis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from custom_transforms.reproduce.thesis_results import paired

Outcome = Literal["holds", "does not hold", "not decided at this budget"]
HOLDS: Outcome = "holds"
FAILS: Outcome = "does not hold"
OPEN: Outcome = "not decided at this budget"

STANDARD_ERRORS = 2.0
EARLY_ITERATIONS = 4
CONVERGED = 0.05  # relative change from one iteration to the next
A_LOT = 0.10  # relative rise of the error
FINAL_ALPHA = (0.67, 0.75)
SETTLED_ALPHA = 0.1  # change in the last quarter of the epochs
SATURATED = 0.25  # spread of PSNR or SSIM over that of NRMSE

_SOURCES = ("chi_para", "chi_dia")


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: its letter.
        statement: what is claimed.
        criterion: when it holds and when not.
        outcome: what came out.
        numbers: that it rests on.
    """

    claim: str
    statement: str
    criterion: str
    outcome: Outcome
    numbers: str


def _listed(values: NDArray, form: str = ".1f") -> str:
    return ", ".join(format(value, form) for value in values)


def _by_source(values: NDArray, form: str = ".1f") -> str:
    """Write values (N, 2) as two lists."""
    return "; ".join(f"{name} {_listed(column, form)}" for name, column in zip(_SOURCES, values.T, strict=True))


def error_falls(nrmse: NDArray) -> Verdict:
    """Judge claim (a) by the NRMSE of every iteration, (subjects, iterations, 2) in percent."""
    mean, error = paired(np.diff(nrmse, axis=1))
    outcome = HOLDS if (mean < 0).all() else FAILS if (mean > STANDARD_ERRORS * error).any() else OPEN
    rises = [f"{_SOURCES[s]} at iteration {i + 2}" for i, s in np.argwhere(mean > 0)]
    return Verdict(
        "a",
        "the error falls with every iteration",
        "holds if the mean NRMSE of both sources falls at every iteration; not, if one rise is real",
        outcome,
        f"NRMSE, %: {_by_source(nrmse.mean(axis=0))}" + (f"; it rises in {', '.join(rises)}" if rises else ""),
    )


def early_iterations_alternate(mean_error: NDArray) -> Verdict:
    """Judge claim (b) by the signed mean error of every iteration, (subjects, iterations, 2) in ppm."""
    curve = mean_error.mean(axis=0)
    early = np.sign(curve[:EARLY_ITERATIONS])
    changes = (early[1:] * early[:-1] < 0).sum(axis=0)
    possible = len(early) - 1
    outcome = HOLDS if (changes == possible).all() else FAILS if (changes <= possible // 2).all() else OPEN
    steps = np.diff(curve, axis=0)
    turns = (steps[1:] * steps[:-1] < 0).sum(axis=0)
    return Verdict(
        "b",
        "early iterations alternate between over- and underestimation",
        f"holds if the mean error of both sources changes its sign {possible} times in the first {len(early)} "
        f"iterations; not, if in both it does so in at most {possible // 2} of {possible}",
        outcome,
        f"{changes[0]} and {changes[1]} changes of sign; over all iterations the mean error turns "
        f"{turns[0]} and {turns[1]} of {len(steps) - 1} possible times; mean error, ppb: {_by_source(1000 * curve)}",
    )


def iterations_converge(change: NDArray) -> Verdict:
    """Judge claim (c) by the relative change of every iteration, (subjects, iterations - 1)."""
    curve = change.mean(axis=0)
    falling = curve[-1] == curve.min()
    outcome = HOLDS if falling and curve[-1] <= CONVERGED else FAILS if curve[-1] >= np.median(curve) else OPEN
    return Verdict(
        "c",
        "the change from one iteration to the next goes to 0",
        f"holds if the last change is the least and at most {100 * CONVERGED:.0f} %; not, if it is no less "
        "than the median change",
        outcome,
        f"changes |x_(i+1) - x_i| / |x_i|, %: {_listed(100 * curve)}",
    )


def more_iterations_help(nrmse: Mapping[int, NDArray], cost: Mapping[int, Mapping[str, float]]) -> Verdict:
    """Judge claim (d) by networks with other numbers of iterations: NRMSE, (subjects, 2) in percent, and cost."""
    counts = sorted(nrmse)
    means = np.array([nrmse[n].mean() for n in counts])
    fewest, most = counts[0], counts[-1]
    gain, error = paired((nrmse[fewest] - nrmse[most]).mean(axis=1))
    dearer = all(cost[a][key] < cost[b][key] for a, b in pairwise(counts) for key in cost[a])
    real = gain > STANDARD_ERRORS * error
    if len(counts) > 1 and dearer and real and (np.diff(means) < 0).all():
        outcome = HOLDS
    else:
        outcome = FAILS if len(counts) > 1 and -gain > STANDARD_ERRORS * error else OPEN
    rows = [
        f"{n}: {mean:.1f} %, {cost[n]['step_seconds']:.2f} s, {cost[n]['backward_mib']:.0f} MiB"
        for n, mean in zip(counts, means, strict=True)
    ]
    return Verdict(
        "d",
        "more iterations help, at a cost in memory and time",
        "holds if the NRMSE falls with every number of iterations, really from the fewest to the most, and time and "
        "memory of a training step rise; not, if the most are really worse than the fewest",
        outcome,
        "iterations: NRMSE, time and memory of a training step: " + "; ".join(rows),
    )


def qsm_input_matters(with_qsm: NDArray, without_qsm: NDArray) -> Verdict:
    """Judge claim (e) by the NRMSE of both networks, (subjects, 2) in percent."""
    reference = with_qsm.mean()
    rise, error = paired((without_qsm - with_qsm).mean(axis=1) / reference)
    margin = STANDARD_ERRORS * error
    outcome = HOLDS if rise >= A_LOT and rise > margin else FAILS if rise + margin < A_LOT else OPEN
    return Verdict(
        "e",
        "dropping the QSMnet input hurts a lot",
        f"holds if the NRMSE really rises by {100 * A_LOT:.0f} % of itself or more; not, if it really rises by less",
        outcome,
        f"NRMSE with, %: {_by_source(with_qsm.mean(axis=0, keepdims=True))}; without: "
        f"{_by_source(without_qsm.mean(axis=0, keepdims=True))}; rise {100 * rise:.0f} % of itself",
    )


def alpha_ends_low(alpha: NDArray, reach: float, *, claim: str = "f") -> Verdict:
    """Judge claim (f).

    Args:
        alpha: before training and after every epoch.
        reach: how far the optimiser could have moved it, learning rate times steps.
        claim: letter.
    """
    low, high = FINAL_ALPHA
    last, drift = alpha[-1], alpha[-1] - alpha[3 * (len(alpha) - 1) // 4]
    if reach < alpha[0] - high or abs(drift) > SETTLED_ALPHA:
        outcome = OPEN
    else:
        outcome = HOLDS if low <= round(last, 2) <= high else FAILS
    return Verdict(
        claim,
        f"alpha ends between {low} and {high}",
        "not decided if learning rate times steps is less than the way there, or if alpha still moved by more than "
        f"{SETTLED_ALPHA} in the last quarter of the epochs; else it holds if alpha ends there, and not if it does not",
        outcome,
        f"alpha from {alpha[0]:.2f} to {last:.2f}, by {drift:+.3f} in the last quarter; learning rate times steps "
        f"{reach:.2g}",
    )


def metrics_saturate(scores: Sequence[Mapping[str, float]]) -> Verdict:
    """Judge claim (g) by the mean NRMSE, PSNR and SSIM of every network."""
    spread = {}
    for metric in ("nrmse", "psnr", "ssim"):
        values = np.array([score[metric] for score in scores])
        spread[metric] = float(np.ptp(values) / values.mean())
    ratios = np.array([spread["psnr"], spread["ssim"]]) / spread["nrmse"] if spread["nrmse"] > 0 else np.full(2, np.inf)
    outcome = HOLDS if (ratios < SATURATED).all() else FAILS if (ratios >= 1).any() else OPEN
    return Verdict(
        "g",
        "the metrics saturate: PSNR and SSIM hardly tell the networks apart",
        f"holds if their relative spreads over the networks are below {100 * SATURATED:.0f} % of that of the NRMSE; "
        "not, if one is no less than that",
        outcome if len(scores) > 1 else OPEN,
        f"{len(scores)} networks: spread of NRMSE {100 * spread['nrmse']:.1f} %, PSNR {100 * spread['psnr']:.2f} %, "
        f"SSIM {100 * spread['ssim']:.2f} % of the mean",
    )
