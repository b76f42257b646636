"""Scores of estimates that are known, iteration by iteration."""

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from custom_transforms.inferers import AxialInferer, GeometryInferer
from custom_transforms.networks import GradientUnrolledChiSepNet
from custom_transforms.reproduce.thesis_analysis import estimator, lesion_recovery, score
from custom_transforms.reproduce.thesis_cases import HeadCase, LesionCase

GENERATOR = torch.Generator().manual_seed(0)
LABEL = torch.rand(1, 2, 12, 10, 8, generator=GENERATOR) + 0.1


def image() -> MetaTensor:
    return MetaTensor(torch.ones(1, 3, 12, 10, 8), affine=torch.eye(4))


def case() -> HeadCase:
    return HeadCase("sub-01_ses-01", "sub-01", image(), torch.ones(1, 1, 12, 10, 8), {"truth": LABEL})


def test_scores_are_those_of_the_last_iteration_and_of_all() -> None:
    estimates = torch.cat([0.5 * LABEL, 1.5 * LABEL, 0.9 * LABEL])
    (row,) = score(lambda _: estimates, [case()])
    scores = row["references"]["truth"]
    assert scores["nrmse"] == pytest.approx([10, 10], rel=1e-5)
    assert [r["nrmse"][0] for r in scores["iterations"]] == pytest.approx([50, 50, 10], rel=1e-5)
    signs = [r["mean_error"][1] > 0 for r in scores["iterations"]]
    assert signs == [False, True, False]
    assert row["change"] == pytest.approx([2, 0.4], rel=1e-5)
    mean = float(LABEL[:, 0].double().mean())
    assert scores["iterations"][0]["mean_error"][0] == pytest.approx(-0.5 * mean, rel=1e-5)


def test_negative_estimates_count_as_zero_but_not_in_the_signed_error() -> None:
    (row,) = score(lambda _: -LABEL, [case()])
    scores = row["references"]["truth"]
    assert scores["nrmse"] == pytest.approx([100, 100])
    assert scores["iterations"][0]["mean_error"][0] == pytest.approx(-2 * float(LABEL[:, 0].double().mean()), rel=1e-5)
    assert row["change"] == []


def test_lesions_are_read_in_their_own_source() -> None:
    numbers = torch.zeros(1, 1, 12, 10, 8, dtype=torch.uint8)
    numbers[..., :3, :, :], numbers[..., 6:9, :, :] = 1, 2
    estimate = torch.cat([0.5 * LABEL[:, :1], 2 * LABEL[:, 1:]], dim=1)
    rows = lesion_recovery(lambda _: estimate, [LesionCase("sub-01", "exact maps", image(), numbers, LABEL)])
    assert [row["kind"] for row in rows] == ["haemorrhage", "calcification"]
    ratios = [row["estimate_ppm"] / row["truth_ppm"] for row in rows]
    assert ratios == pytest.approx([0.5, 2])
    assert rows[0]["truth_ppm"] == pytest.approx(float(LABEL[0, 0, :3].mean()), rel=1e-5)
    assert rows[1]["truth_ppm"] == pytest.approx(float(LABEL[0, 1, 6:9].mean()), rel=1e-5)


def test_estimator_gives_every_iteration_of_an_unrolled_network_and_one_of_others() -> None:
    torch.manual_seed(0)
    network = GradientUnrolledChiSepNet(
        backbone=nn.Conv3d(2, 2, 3, padding=1), susceptibility=None, iterations=3, size_divisor=1, initial_step=0.5
    ).eval()
    estimates = estimator(network, AxialInferer())(image())
    assert estimates.shape == (3, 2, 12, 10, 8)
    geometry = torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    with torch.no_grad():
        torch.testing.assert_close(estimates[-1:].clamp(min=0), network(image().as_tensor(), *geometry))

    class Twice(nn.Module):
        def forward(self, image: Tensor, *geometry: Tensor | None) -> Tensor:
            return 2 * image[:, :2]

    assert estimator(Twice(), GeometryInferer())(image()).shape == (1, 2, 12, 10, 8)
