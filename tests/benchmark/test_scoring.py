"""Scores are those of the equations, look at the mask alone, and leave out what the data do not allow."""

import numpy as np
import pytest
import torch

from custom_transforms.benchmark.scoring import DEEP_GREY, LESIONS, METRICS, score
from custom_transforms.keys import CHI_DIA, CHI_PARA
from custom_transforms.phantom.structures import NUCLEI, REGIONS

LABELS = {"background": 0, "caudate": 1, "putamen": 2, "thalamus": 3, "white_matter": 4, "haemorrhage": 8}
LABELS["calcification"] = 9


@pytest.fixture
def truth() -> torch.Tensor:
    return 0.02 + 0.05 * torch.rand(1, 2, 12, 11, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def regions() -> torch.Tensor:
    """Slabs; and two haemorrhages and two calcifications that do not touch."""
    labels = torch.arange(12).div(2, rounding_mode="floor").clamp(max=4)[:, None, None].expand(12, 11, 10).clone()
    labels[9, 2, 2] = labels[9, 8, 8] = LABELS["haemorrhage"]
    labels[9, 2, 8] = labels[9, 8, 2] = LABELS["calcification"]
    return labels[None, None]


MASK = torch.ones(1, 1, 12, 11, 10)


def test_names_are_those_of_the_phantom() -> None:
    assert set(DEEP_GREY) <= NUCLEI.keys()
    assert set(LESIONS) < REGIONS.keys()


def test_the_truth_is_perfect(truth: torch.Tensor, regions: torch.Tensor) -> None:
    found = score(truth, truth, MASK, regions, LABELS).metrics
    missing = {"psnr_para", "psnr_dia", "wall_time_s", "peak_memory_gib"}  # infinite, and not of maps
    assert found.keys() == set(METRICS) - missing
    for name, value in found.items():
        perfect = 1.0 if name.startswith(("ssim", "xsim", "region_slope", "lesion_slope")) else 0.0
        assert value == pytest.approx(perfect, abs=1e-9), name


def test_a_scaled_truth(truth: torch.Tensor, regions: torch.Tensor) -> None:
    scale = torch.tensor([0.8, 1.3])[:, None, None, None]
    found = score(scale * truth, truth, MASK, regions, LABELS).metrics
    for source, factor in (("para", 0.8), ("dia", 1.3)):
        for name in (f"nrmse_{source}", f"nrmse_{source}_demeaned", f"hfen_{source}"):
            assert found[name] == pytest.approx(100 * abs(1 - factor), rel=1e-5), name
        assert found[f"linearity_{source}"] == pytest.approx(abs(1 - factor), rel=1e-5)
        assert found[f"region_slope_{source}"] == pytest.approx(factor, rel=1e-5)
        assert found[f"lesion_slope_{source}"] == pytest.approx(factor, rel=1e-5)
        assert found[f"leakage_{source}"] == pytest.approx(0.0, abs=1e-6)


def test_regions_by_numpy(truth: torch.Tensor, regions: torch.Tensor) -> None:
    """Means by loops, lines by polyfit: nuclei for the linearity, all regions but lesions for the slope."""
    estimate = truth + 0.02 * torch.rand(truth.shape, generator=torch.Generator().manual_seed(1))
    found, points = score(estimate, truth, MASK, regions, LABELS)
    x, y, labels = truth[0].numpy(), estimate[0].numpy(), regions[0, 0].numpy()
    for i, (source, key) in enumerate((("para", CHI_PARA), ("dia", CHI_DIA))):
        means = np.array([[chi[i][labels == label].mean() for chi in (x, y)] for label in (1, 2, 3, 4)])
        assert np.allclose(points[key], means, rtol=1e-5)
        assert found[f"region_slope_{source}"] == pytest.approx(np.polyfit(*means.T, 1)[0], rel=1e-3)
        assert found[f"linearity_{source}"] == pytest.approx(abs(1 - np.polyfit(*means[:3].T, 1)[0]), rel=1e-3)
    demeaned = [chi[0] - chi[1] - (chi[0] - chi[1]).mean() for chi in (x, y)]
    expected = 100 * np.linalg.norm(demeaned[1] - demeaned[0]) / np.linalg.norm(demeaned[0])
    assert found["nrmse_total_demeaned"] == pytest.approx(expected, rel=1e-4)


def test_lesions_count_for_their_source_alone(truth: torch.Tensor, regions: torch.Tensor) -> None:
    """A method that keeps a quarter of a bleed's contrast has slope 0.25, and full marks for calcifications."""
    bleeds = (regions == LABELS["haemorrhage"]).expand_as(truth)
    lesioned = truth.clone()
    lesioned[0, 0, 9, 2, 2], lesioned[0, 0, 9, 8, 8] = 1.0, 2.0
    found = score(torch.where(bleeds, lesioned / 4, lesioned), lesioned, MASK, regions, LABELS).metrics
    assert found["lesion_slope_para"] == pytest.approx(0.25)
    assert found["lesion_slope_dia"] == pytest.approx(1.0)
    assert found["region_slope_para"] == pytest.approx(1.0)


def test_only_the_mask_counts(truth: torch.Tensor, regions: torch.Tensor) -> None:
    mask = MASK.clone()
    mask[..., :3] = 0
    spoilt = truth.clone()
    spoilt[..., :3] = 7.0
    assert score(spoilt, truth, mask, regions, LABELS) == score(truth, truth, mask, regions, LABELS)
    assert score(spoilt, truth, MASK, regions, LABELS) != score(truth, truth, MASK, regions, LABELS)


def test_swapped_sources_leak(truth: torch.Tensor) -> None:
    found = score(truth.flip(1), truth, MASK, None, {}).metrics
    assert found["leakage_para"] == pytest.approx(1.0) and found["leakage_dia"] == pytest.approx(1.0)


def test_what_the_data_do_not_allow_is_left_out(truth: torch.Tensor, regions: torch.Tensor) -> None:
    found, points = score(0.9 * truth, truth, MASK, None, LABELS)
    assert not points and not [name for name in found if "slope" in name or "linearity" in name]
    one = torch.where(regions == LABELS["haemorrhage"], 0, regions)
    one[..., 9, 2, 2] = LABELS["haemorrhage"]
    found, points = score(0.9 * truth, truth, MASK, one, LABELS)
    assert "lesion_slope_para" not in found and "lesion_slope_dia" in found
    assert len(points[CHI_PARA]) == 4
    assert all(np.isfinite(value) for value in found.values())
