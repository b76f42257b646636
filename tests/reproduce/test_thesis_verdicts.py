"""Every outcome of every criterion can be reached, by curves made for it."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from custom_transforms.reproduce.thesis_lesions import (
    lesions_underestimated,
    solved,
    worse_than_baseline,
    worse_with_iterations,
)
from custom_transforms.reproduce.thesis_results import Recovery
from custom_transforms.reproduce.thesis_verdicts import (
    FAILS,
    HOLDS,
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

JITTER = np.array([-1.0, 0.0, 1.0])  # of three subjects; its standard error is 0.58
COST = {1: {"step_seconds": 1.0, "backward_mib": 10.0}, 10: {"step_seconds": 9.0, "backward_mib": 99.0}}


def curves(values: list[float], jitter: float = 0.0) -> NDArray:
    """Give (3 subjects, N, 2) with these means; the jitter grows along the curve, so that its differences have it."""
    n = len(values)
    return (np.array(values) + jitter * JITTER[:, None] * np.arange(n))[..., None] * np.ones(2)


def subjects(mean: float, jitter: float = 0.0) -> NDArray:
    return (mean + jitter * JITTER)[:, None] * np.ones(2)


def fits(haemorrhage: float, calcification: float, error: float = 0.01) -> dict[str, Recovery]:
    x = np.array([0.1, 0.7, 1.4])
    slopes = {"haemorrhage": haemorrhage, "calcification": calcification}
    return {kind: Recovery(x, slope * x, slope, error, 1.0) for kind, slope in slopes.items()}


CASES: list[tuple[Callable[[], Verdict], str]] = [
    (lambda: error_falls(curves([50, 40, 30])), HOLDS),
    (lambda: error_falls(curves([50, 40, 45])), FAILS),
    (lambda: error_falls(curves([50, 40, 40.5], jitter=1)), OPEN),
    (lambda: early_iterations_alternate(curves([1, -1, 1, -1, 0.5])), HOLDS),
    (lambda: early_iterations_alternate(curves([4, 3, 2, 1, -1])), FAILS),
    (lambda: early_iterations_alternate(curves([1, -1, 1, 1, 1])), OPEN),
    (lambda: iterations_converge(curves([0.5, 0.1, 0.02])[..., 0]), HOLDS),
    (lambda: iterations_converge(curves([0.5, 0.1, 0.3])[..., 0]), FAILS),
    (lambda: iterations_converge(curves([0.5, 0.3, 0.2])[..., 0]), OPEN),
    (lambda: more_iterations_help({1: subjects(40), 10: subjects(30)}, COST), HOLDS),
    (lambda: more_iterations_help({1: subjects(30), 10: subjects(40)}, COST), FAILS),
    (lambda: more_iterations_help({1: subjects(30.5, 1), 10: subjects(30)}, COST), OPEN),
    (lambda: more_iterations_help({1: subjects(40), 10: subjects(30)}, {1: COST[10], 10: COST[1]}), OPEN),
    (lambda: qsm_input_matters(subjects(30), subjects(36)), HOLDS),
    (lambda: qsm_input_matters(subjects(30), subjects(31)), FAILS),
    (lambda: qsm_input_matters(subjects(30), subjects(32, 3)), OPEN),
    (lambda: alpha_ends_low(np.array([4, 2, 1, *[0.72] * 18]), 9.0), HOLDS),
    (lambda: alpha_ends_low(np.linspace(4, 0.7, 21), 9.0), OPEN),  # passing by
    (lambda: alpha_ends_low(np.full(21, 1.5), 9.0), FAILS),
    (lambda: alpha_ends_low(np.linspace(4, 1.5, 21), 9.0), OPEN),  # still moving
    (lambda: alpha_ends_low(np.full(21, 3.99), 0.1), OPEN),  # could not get there
    (lambda: metrics_saturate([scores(30, 47, 0.94), scores(33, 46.9, 0.941)]), HOLDS),
    (lambda: metrics_saturate([scores(30, 47, 0.94), scores(30.1, 40, 0.94)]), FAILS),
    (lambda: metrics_saturate([scores(30, 47, 0.94), scores(33, 45, 0.94)]), OPEN),
    (lambda: metrics_saturate([scores(30, 47, 0.94)]), OPEN),
    (lambda: lesions_underestimated(fits(0.6, 0.7)), HOLDS),
    (lambda: lesions_underestimated(fits(1.2, 0.7)), FAILS),
    (lambda: lesions_underestimated(fits(0.99, 0.7)), OPEN),
    (lambda: worse_than_baseline(fits(0.5, 0.5), fits(0.7, 0.7)), HOLDS),
    (lambda: worse_than_baseline(fits(0.7, 0.5), fits(0.5, 0.7)), FAILS),
    (lambda: worse_than_baseline(fits(0.5, 0.7), fits(0.7, 0.7)), OPEN),
    (lambda: worse_with_iterations({1: fits(0.9, 0.9), 10: fits(0.6, 0.6)}), HOLDS),
    (lambda: worse_with_iterations({1: fits(0.6, 0.9), 10: fits(0.9, 0.6)}), FAILS),
    (lambda: worse_with_iterations({10: fits(0.6, 0.6)}), OPEN),
    (lambda: solved(fits(0.98, 1.02)), HOLDS),
    (lambda: solved(fits(0.98, 1.1)), FAILS),
]


def scores(nrmse: float, psnr: float, ssim: float) -> dict[str, float]:
    return {"nrmse": nrmse, "psnr": psnr, "ssim": ssim}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_outcome(number: int) -> None:
    judge, outcome = CASES[number]
    verdict = judge()
    assert verdict.outcome == outcome
    assert verdict.numbers and verdict.criterion and verdict.statement


def test_one_subject_decides_no_comparison() -> None:
    assert qsm_input_matters(subjects(30)[:1], subjects(36)[:1]).outcome == OPEN
    assert more_iterations_help({1: subjects(40)[:1], 10: subjects(30)[:1]}, COST).outcome == OPEN


def test_numbers_are_those_of_the_curves() -> None:
    assert "chi_para 50.0, 40.0, 45.0" in error_falls(curves([50, 40, 45])).numbers
    assert "chi_dia at iteration 3" in error_falls(curves([50, 40, 45])).numbers
    assert "rise 20 % of itself" in qsm_input_matters(subjects(30), subjects(36)).numbers
