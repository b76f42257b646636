"""The page says what the results say, and what is missing."""

from pathlib import Path

import numpy as np
import pytest

from custom_transforms.output import write_json
from custom_transforms.reproduce.thesis_assembly import MODELS, verdicts
from custom_transforms.reproduce.thesis_page import CLAIMS, FIGURES, write_page
from custom_transforms.reproduce.thesis_results import Result
from custom_transforms.reproduce.thesis_runs import BASELINE, CLOSED_FORM, OURS, QSMNET, UNROLLED
from custom_transforms.reproduce.thesis_verdicts import HOLDS, OPEN

SLOPES = {BASELINE: 0.8, UNROLLED: 0.6, OURS: 1.0}


def scores(nrmse: float, iterations: int) -> dict:
    steps = [{"nrmse": [nrmse + n, nrmse + n], "mean_error": [0.001 * (-1) ** n] * 2} for n in range(iterations)[::-1]]
    once = {"nrmse": [nrmse] * 2, "nrmse_demeaned": [nrmse] * 2, "psnr": [40.0] * 2, "ssim": [0.9] * 2}
    return {**once, "iterations": steps}


def result(model: str, nrmse: float, iterations: int = 1, steps: int = 48, validation: float = 30.0) -> Result:
    heads = [
        {
            "name": f"sub-{i:02d}_ses-01",
            "subject": f"sub-{i:02d}",
            "references": {name: scores(nrmse + i, iterations) for name in ("COSMOS", "truth")},
            "change": [0.5 / n**3 for n in range(1, iterations)],
        }
        for i in range(1, 4)
    ]
    lesions = [
        {"subject": "sub-01", "condition": c, "kind": k, "truth_ppm": x, "estimate_ppm": SLOPES.get(model, 0.9) * x + y}
        for c in ("exact maps", "SNR 100")
        for k in ("haemorrhage", "calcification")
        for x, y in ((0.1, 0.001), (0.7, -0.001), (1.4, 0.0))
    ]
    epochs = [{"epoch": n, "alpha": a, "nrmse": e} for n, (a, e) in enumerate([(4.0, 60.0), *[(0.7, validation)] * 4])]
    cost = {"step_seconds": float(iterations), "backward_mib": 10.0 * iterations}
    return Result(model, 0, steps, heads, lesions, epochs, alpha_learning_rate=0.1, cost=cost)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings = {"voxel_size_mm": 3.0, "epochs": 2, "width": 8, "patch_size": None, "amp": True, "orientations": 6}
    write_json(tmp_path / "settings.json", settings)
    write_json(tmp_path / "cohort/cosmos.json", {"training": [{}] * 24, "validation": [{}] * 6, "test": [{}] * 18})
    (tmp_path / "results").mkdir()
    maps = np.random.default_rng(0).random((11, 2, 9, 8)) / 10
    np.savez_compressed(tmp_path / "results/slices.npz", label=maps[0], iterations=maps[1:])
    return tmp_path


def all_results() -> list[Result]:
    counts = {UNROLLED: 10, "1 iteration": 1, "2 iterations": 2, "5 iterations": 5, "without the QSMnet input": 10}
    errors = {UNROLLED: 20.0, "1 iteration": 32.0, "2 iterations": 28.0, "5 iterations": 24.0}
    steps = dict.fromkeys((OURS, CLOSED_FORM), 0)
    return [result(m, errors.get(m, 36.0), counts.get(m, 1), steps.get(m, 48)) for m in MODELS]


def test_page_with_all_results(folder: Path) -> None:
    write_page(folder, all_results(), "a machine")
    page = (folder / "thesis.md").read_text(encoding="utf-8")
    assert "33.72 ± 2.77 | 47.45 ± 0.94 | 0.94322 ± 0.00592" in page  # published
    assert "| chi_dia, unrolled chi-sepnet-R2' | published | 35.33 ± 2.72" in page
    assert page.count("| | ours | 22.00 ± 1.00 | 40.00 ± 0.00 | 0.90000 ± 0.00000 |") == 2
    for statement in (
        "(a) the error falls with every iteration: holds",
        "(e) dropping the QSMnet input hurts a lot: holds",
    ):
        assert f"### {statement}\n" in page
    assert "(h.4) solved: the network `unrolled` recovers both kinds with a slope of 0.97 to 1.03: holds" in page
    assert "24 training, 6 validation, 18 test volumes" in page
    assert "optimiser steps of each network: 48" in page
    figures = {path.name: path.stat().st_size for path in folder.glob("*.png")}
    assert set(figures) == set(FIGURES)
    assert all(f"]({name})" in page and size < 200_000 for name, size in figures.items())


def test_every_claim_has_a_verdict(folder: Path) -> None:
    assert {verdict.claim[0] for verdict in verdicts(all_results())} == set(CLAIMS)
    write_page(folder, [result(QSMNET, 40.0), result(OURS, 10.0, steps=0)], "a machine")
    page = (folder / "thesis.md").read_text(encoding="utf-8")
    for claim in "abcdefg":
        assert f"| ({claim}) | **not decided at this budget**: its networks were not trained |" in page
    assert "not trained | not trained | not trained" in page


def test_unequal_optimiser_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally many optimiser steps, got \[24, 48\]"):
        verdicts([result(BASELINE, 30.0, steps=24), result(UNROLLED, 30.0, 10)])


def test_claims_of_networks_that_have_not_learnt_are_left_open() -> None:
    results = [result(BASELINE, 30.0), result(UNROLLED, 20.0, 10, validation=50.0), result(OURS, 10.0, steps=0)]
    found = {verdict.claim: verdict for verdict in verdicts(results)}
    assert found["a"].outcome == found["h.2"].outcome == OPEN
    assert "unrolled_thesis has hardly learnt, its validation error went from 60.0 to 50.0 %" in found["a"].numbers
    assert found["h.4"].outcome == found["f"].outcome == HOLDS  # they do not rest on it
    assert {v.claim: v.outcome for v in verdicts([*results[::2], result(UNROLLED, 20.0, 10)])}["a"] == HOLDS


def test_a_training_that_still_learns_falls_short() -> None:
    errors = [60.0, 40.0, 38.0, 37.0, 30.0]
    epochs = [{"epoch": n, "alpha": "", "nrmse": error} for n, error in enumerate(errors)]
    learning = Result("m", 0, 48, [], [], epochs)
    assert learning.shortcoming() == "m was still learning, its validation error fell from 37.0 to 30.0 % at last"
    assert Result("m", 0, 48, [], [], [*epochs[:4], {**epochs[4], "nrmse": 36.0}]).shortcoming() == ""
