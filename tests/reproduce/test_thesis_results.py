"""Averages over subjects and lines through lesions against NumPy."""

from pathlib import Path

import numpy as np
import pytest

from custom_transforms.reproduce.thesis_results import (
    Result,
    changes_per_subject,
    iterations_per_subject,
    paired,
    per_head,
    per_subject,
    recovery,
)


def head(subject: str, session: int, nrmse: float) -> dict:
    iterations = [{"nrmse": [nrmse + 2, nrmse + 3]}, {"nrmse": [nrmse, nrmse + 1]}]
    return {
        "name": f"{subject}_ses-{session:02d}",
        "subject": subject,
        "references": {"truth": {"nrmse": [nrmse, nrmse + 1], "iterations": iterations}},
        "change": [nrmse / 100],
    }


HEADS = [head("sub-01", 1, 10.0), head("sub-01", 2, 20.0), head("sub-02", 1, 40.0)]
RESULT = Result("m", 0, 5, heads=HEADS, lesions=[], epochs=[{"epoch": 0, "alpha": "4.0", "nrmse": 50.0}])


def test_subjects_weigh_the_same_whatever_their_orientations() -> None:
    np.testing.assert_allclose(per_subject([RESULT], "nrmse", "truth"), [[15, 16], [40, 41]])
    np.testing.assert_allclose(per_head([RESULT], "nrmse", "truth"), [[10, 11], [20, 21], [40, 41]])
    np.testing.assert_allclose(iterations_per_subject([RESULT], "nrmse", "truth")[0], [[17, 18], [15, 16]])
    np.testing.assert_allclose(changes_per_subject([RESULT, RESULT]), [[0.15], [0.4], [0.15], [0.4]])


def test_file_holds_the_result(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    RESULT.save(path)
    assert Result.load(path) == RESULT
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(RESULT.alpha(), [4.0])
    assert Result("m", 0, 5, heads=[], lesions=[], epochs=[{"alpha": ""}]).alpha().size == 0


def test_standard_error() -> None:
    mean, error = paired(np.array([[1.0], [2.0], [6.0]]))
    np.testing.assert_allclose((mean, error), ([3.0], [np.std([1, 2, 6], ddof=1) / 3**0.5]))
    assert np.isinf(paired(np.array([1.0]))[1])


def test_recovery_is_the_least_squares_line_with_its_error() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.1, 1.4, 30)
    estimate = 0.7 * truth + 0.05 + rng.normal(0, 0.03, 30)
    rows = [
        {"kind": "haemorrhage", "condition": "c", "truth_ppm": t, "estimate_ppm": e}
        for t, e in zip(truth, estimate, strict=True)
    ]
    others = [
        {"kind": k, "condition": c, "truth_ppm": 1.0, "estimate_ppm": 9.0}
        for k, c in ((("x"), "c"), ("haemorrhage", "d"))
    ]
    fit = recovery([Result("m", 0, 1, heads=[], lesions=rows + others)], "haemorrhage", "c")
    (slope, _), covariance = np.polyfit(truth, estimate, 1, cov=True)
    assert fit.slope == pytest.approx(slope)
    assert fit.slope_error == pytest.approx(covariance[0, 0] ** 0.5)
    assert fit.r_squared == pytest.approx(np.corrcoef(truth, estimate)[0, 1] ** 2)
    assert len(fit.truth_ppm) == 30
