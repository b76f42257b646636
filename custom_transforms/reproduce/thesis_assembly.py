"""Which results decide which claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from custom_transforms.phantom.lesions import KINDS
from custom_transforms.reproduce.thesis_cases import COSMOS, LESION_SNR
from custom_transforms.reproduce.thesis_lesions import (
    lesions_underestimated,
    solved,
    worse_than_baseline,
    worse_with_iterations,
)
from custom_transforms.reproduce.thesis_results import (
    Recovery,
    Result,
    changes_per_subject,
    iterations_per_subject,
    of_model,
    per_head,
    per_subject,
    recovery,
)
from custom_transforms.reproduce.thesis_runs import (
    BASELINE,
    CLOSED_FORM,
    FAST_ALPHA,
    FEWER_ITERATIONS,
    ITERATIONS,
    OURS,
    QSMNET,
    UNROLLED,
    WITHOUT_QSM,
    iterations_model,
)
from custom_transforms.reproduce.thesis_verdicts import (
    OPEN,
    Verdict,
    alpha_ends_low,
    early_iterations_alternate,
    error_falls,
    iterations_converge,
    metrics_saturate,
    more_iterations_help,
    qsm_input_matters,
)

_FEWER = {n: iterations_model(n) for n in FEWER_ITERATIONS}
NETWORKS = (BASELINE, UNROLLED, *_FEWER.values(), WITHOUT_QSM, FAST_ALPHA)
MODELS = (*NETWORKS, QSMNET, CLOSED_FORM, OURS)
EXACT = next(iter(LESION_SNR))


def recoveries(results: Sequence[Result], model: str, condition: str = EXACT) -> dict[str, Recovery]:
    """Fit the lesions of either kind for a model."""
    return {kind: recovery(of_model(results, model), kind, condition) for kind in KINDS}


def mean_scores(results: Sequence[Result], model: str) -> dict[str, float]:
    """Average NRMSE (percent), PSNR (dB) and SSIM of a model over sources, heads and seeds; empty if not trained."""
    own = of_model(results, model)
    return (
        {metric: float(np.mean(per_head(own, metric, COSMOS))) for metric in ("nrmse", "psnr", "ssim")} if own else {}
    )


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Judge every claim that the results allow to be judged, in their order.

    Raises:
        ValueError: baseline and unrolled network were trained for different numbers of optimiser steps.
    """
    steps = {result.steps for model in (BASELINE, UNROLLED) for result in of_model(results, model)}
    if len(steps) > 1:
        raise ValueError(f"baseline and unrolled network must take equally many optimiser steps, got {sorted(steps)}")
    found = [*_of_iterations(results), *_of_ablations(results), *_of_lesions(results)]
    return sorted(found, key=lambda verdict: verdict.claim)


def _guarded(verdict: Verdict, results: Sequence[Result], models: Sequence[str]) -> Verdict:
    """Leave a claim open if a training that it rests on, or that of QSMnet, was not over."""
    used = [result for model in (QSMNET, *models) for result in of_model(results, model)]
    reasons = [reason for result in used if (reason := result.shortcoming())]
    if not reasons:
        return verdict
    return replace(verdict, outcome=OPEN, numbers=f"{verdict.numbers}; but {', '.join(reasons)}")


def _of_iterations(results: Sequence[Result]) -> list[Verdict]:
    unrolled = of_model(results, UNROLLED)
    if not unrolled:
        return []
    curves = [
        error_falls(iterations_per_subject(unrolled, "nrmse", COSMOS)),
        early_iterations_alternate(iterations_per_subject(unrolled, "mean_error", COSMOS)),
        iterations_converge(changes_per_subject(unrolled)),
    ]
    found = [_guarded(verdict, results, [UNROLLED]) for verdict in curves]
    for model, claim in ((UNROLLED, "f"), (FAST_ALPHA, "f, alpha with a learning rate of its own")):
        for result in of_model(results, model)[:1]:
            found.append(alpha_ends_low(result.alpha(), result.alpha_learning_rate * result.steps, claim=claim))
    return found


def by_iterations(results: Sequence[Result]) -> dict[int, list[Result]]:
    """Give the results of the first seed by number of iterations, where there are any."""
    models = {**_FEWER, ITERATIONS: UNROLLED}
    return {n: own[:1] for n, model in models.items() if (own := of_model(results, model))}


def _of_ablations(results: Sequence[Result]) -> list[Verdict]:
    found = []
    counts = by_iterations(results)
    if len(counts) > 1:
        errors = {n: per_subject(own, "nrmse", COSMOS) for n, own in counts.items()}
        verdict = more_iterations_help(errors, {n: own[0].cost for n, own in counts.items()})
        found.append(_guarded(verdict, results, [UNROLLED, *_FEWER.values()]))
    unrolled, without = of_model(results, UNROLLED)[:1], of_model(results, WITHOUT_QSM)
    if unrolled and without:
        verdict = qsm_input_matters(*(per_subject(own, "nrmse", COSMOS) for own in (unrolled, without)))
        found.append(_guarded(verdict, results, [UNROLLED, WITHOUT_QSM]))
    compared = (BASELINE, UNROLLED, *_FEWER.values())
    networks = [scores for model in compared if (scores := mean_scores(results, model))]
    if len(networks) > 1:
        found.append(_guarded(metrics_saturate(networks), results, compared))
    return found


def _of_lesions(results: Sequence[Result]) -> list[Verdict]:
    found = []
    if of_model(results, UNROLLED):
        found.append(_guarded(lesions_underestimated(recoveries(results, UNROLLED)), results, [UNROLLED]))
        if of_model(results, BASELINE):
            verdict = worse_than_baseline(recoveries(results, UNROLLED), recoveries(results, BASELINE))
            found.append(_guarded(verdict, results, [UNROLLED, BASELINE]))
    counts = by_iterations(results)
    if len(counts) > 1:
        fits = {n: {kind: recovery(own, kind, EXACT) for kind in KINDS} for n, own in counts.items()}
        found.append(_guarded(worse_with_iterations(fits), results, [UNROLLED, *_FEWER.values()]))
    if of_model(results, OURS):
        found.append(solved(recoveries(results, OURS)))
    return found
