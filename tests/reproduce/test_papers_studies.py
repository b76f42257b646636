"""What is measured is right for maps whose errors are known."""

import pytest
import torch

from custom_transforms import keys
from custom_transforms.phantom.structures import REGIONS
from custom_transforms.reproduce import papers_studies
from custom_transforms.reproduce.papers_pipelines import MeasuredHead, total, truth_pipeline
from custom_transforms.reproduce.papers_studies import (
    ORIENTATION_SD,
    Heads,
    Study,
    measure_bleeds,
    measure_ms_lesions,
    measure_qsm,
    measure_sources,
)


def test_qsm_of_the_truth_with_any_zero_is_perfect(head: MeasuredHead) -> None:
    maps = total(head.truth).expand(4, -1, -1, -1, -1) + torch.tensor([0.0, 0.1, -0.2, 0.3]).view(4, 1, 1, 1, 1)
    scores = measure_qsm(head, maps)
    assert scores["NRMSE, %"] == pytest.approx([0] * 4, abs=1e-3)
    assert scores["SSIM"] == pytest.approx([1] * 4, abs=1e-6)
    assert scores[ORIENTATION_SD] == pytest.approx([0], abs=1e-3)
    assert scores["angle_deg"][0] == 0
    assert all(9 < angle < 41 for angle in scores["angle_deg"][1:])


def test_qsm_errors_show(head: MeasuredHead) -> None:
    factors = torch.tensor([1.0, 1.1, 1.0, 0.9]).view(4, 1, 1, 1, 1)
    scores = measure_qsm(head, factors * total(head.truth))
    assert scores["NRMSE, %"] == pytest.approx([0, 10, 0, 10], abs=1e-3)
    assert scores[ORIENTATION_SD][0] > 0.1
    assert ORIENTATION_SD not in measure_qsm(head, total(head.truth))  # COSMOS has one map


def test_sources_are_scored_without_fluid(head: MeasuredHead) -> None:
    fluid = head.tissue[keys.REGIONS] == REGIONS["cerebrospinal_fluid"]
    wrong_in_fluid = head.truth + 0.1 * fluid
    assert measure_sources(head, wrong_in_fluid)["chi_para"]["NRMSE, %"] == pytest.approx(0, abs=1e-4)
    wrong = head.truth * torch.tensor([1.0, 1.2]).view(1, 2, 1, 1, 1)
    scores = measure_sources(head, wrong)
    assert scores["chi_para"]["NRMSE, %"] == pytest.approx(0, abs=1e-4)
    assert scores["chi_dia"]["NRMSE, %"] == pytest.approx(20, abs=1e-3)


def test_lesions_are_read_by_number(head: MeasuredHead) -> None:
    assert measure_ms_lesions(head, head.truth) == {
        "1": {"para": "hyper", "rim": False, "dia": "hypo"},
        "2": {"para": "iso", "rim": False, "dia": "hypo"},
    }
    swapped = head.truth.flip(1)
    assert measure_ms_lesions(head, swapped)["1"] == {"para": "hypo", "rim": False, "dia": "hyper"}


def test_bleeds_are_means_of_the_right_source(head: MeasuredHead) -> None:
    measured = measure_bleeds(head, 0.8 * head.truth)
    assert sorted(measured["truth"]) == pytest.approx([0.4, 0.9], rel=0.1)
    assert measured["found"] == pytest.approx([0.8 * value for value in measured["truth"]], rel=1e-5)
    of_total = measure_bleeds(head, total(head.truth))
    assert of_total["found"] == pytest.approx(of_total["truth"])
    assert of_total["truth"][0] < measured["truth"][0]


def test_heads_are_functions_of_their_seed(monkeypatch: pytest.MonkeyPatch, tissue_of) -> None:
    asked = []

    class Brain:
        def __init__(self, **options: object) -> None:
            asked.append(options)

        def __call__(self, seed: int) -> dict[str, torch.Tensor]:
            return tissue_of(seed)

    monkeypatch.setattr(papers_studies, "AnatomicalBrain", Brain)
    heads = Heads(2, (0, 1), 6.0, 100.0, lesions=4, ms_lesions=8)
    first, same, other = (heads.make(index, "cpu").image(0, keys.R2PRIME).as_tensor() for index in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    expected = {"voxel_size_mm": (6.0,) * 3, "lesions": 4, "microbleeds": 0, "ms_lesions": 8, "device": "cpu"}
    assert asked == [expected] * 3


def test_settings_name_what_a_result_depends_on() -> None:
    def settings(heads: Heads, index: int = 0) -> dict:
        return Study("qsm", heads, [], measure_qsm).settings(index, truth_pipeline())

    base = Heads(2, (0, 1), 1.0, 100.0)
    assert settings(base) == settings(Heads(5, (0, 1), 1.0, 100.0))  # more heads leave the first ones as they are
    others = [settings(Heads(2, (0, 1), 1.0, 50.0)), settings(Heads(2, (1, 1), 1.0, 100.0)), settings(base, 1)]
    assert all(other != settings(base) for other in others)
