"""Ignite metrics: the mean over volumes and batches, the sum over ranks, and what has no value."""

import numpy as np
import pytest
import torch
from ignite import distributed as idist
from monai.data import MetaTensor

from custom_transforms import metrics
from custom_transforms.metrics import NRMSE, DeepGreyLinearity, LesionR2, LesionSlope, OrientationSD, RegionMean

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
PAIRS = {
    "NRMSE": metrics.nrmse_percent,
    "PSNR": metrics.psnr_db,
    "SSIM": metrics.ssim,
    "XSIM": metrics.xsim,
    "HFEN": metrics.hfen_percent,
    "Leakage": metrics.leakage,
    "Streaking": metrics.streaking_percent,
}


@pytest.mark.parametrize("source", [None, 0, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_mean_over_volumes(maps: Maps, name: str, source: int | None) -> None:
    metric = getattr(metrics, name)(source=source)
    for part in (slice(0, 2), slice(2, 3)):
        metric.update(tuple(MetaTensor(x[part]) for x in maps))
    values = PAIRS[name](*maps)
    assert metric.compute() == pytest.approx(float((values if source is None else values[:, source]).mean()))
    assert abs(metric.compute() / float(values[0, 0]) - 1) > 1e-6  # one volume is not the mean
    metric.reset()
    with pytest.raises(ValueError, match="at least one volume"):
        metric.compute()


def test_nrmse_demeaned(maps: Maps) -> None:
    metric = NRMSE(demean=True)
    metric.update(maps)
    assert metric.compute() == pytest.approx(float(metrics.nrmse_percent(*maps, demean=True).mean()))


def test_regions(maps: Maps) -> None:
    pred, truth, _ = maps
    regions = torch.arange(9).view(1, 1, 9, 1, 1).expand(3, 1, 9, 8, 11).clone()
    regions[0][regions[0] == 4] = 0  # so two volumes of three have region 4
    mean = RegionMean(source=1, label=4)
    mean.update((pred, regions))
    mean.update((pred[:1], regions[:1]))
    assert mean.compute() == pytest.approx(float(pred[1:, 1, 4].mean()), rel=1e-5)
    linearity = DeepGreyLinearity(source=0, labels=[1, 2, 3])
    linearity.update((0.8 * truth, truth, regions))
    assert linearity.compute() == pytest.approx(0.2, rel=1e-3)


def test_lesions_are_fitted_over_the_whole_run() -> None:
    truth = torch.zeros(4, 2, 6, 6, 6)
    truth[:, 0, 2:4, 2:4, 2:4] = torch.tensor([0.1, 0.5, 0.9, 1.4]).view(4, 1, 1, 1)
    pred, lesions = truth**2, (truth[:, :1] > 0).float()
    slope, r_squared = LesionSlope(source=0), LesionR2(source=0)
    for metric in (slope, r_squared):
        for volume in range(4):
            metric.update(tuple(x[volume : volume + 1] for x in (pred, truth, lesions)))
    x = np.array([0.1, 0.5, 0.9, 1.4])
    assert slope.compute() == pytest.approx(np.polyfit(x, x**2, 1)[0], rel=1e-6)
    assert r_squared.compute() == pytest.approx(np.corrcoef(x, x**2)[0, 1] ** 2, rel=1e-6)
    slope.reset()
    with pytest.raises(ValueError, match="at least two lesions"):
        slope.compute()


def test_each_batch_is_one_head_in_its_orientations(maps: Maps) -> None:
    pred, _, mask = maps
    metric = OrientationSD(source=0)
    metric.update((pred, mask))
    metric.update((3 * pred, mask))
    expected = 2 * metrics.orientation_sd(pred, mask)[0, 0]
    assert metric.compute() == pytest.approx(float(expected))


def test_ranks_are_summed(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank has one volume with the value 1, and the lesions of this rank, halved."""
    metric = NRMSE(source=0)
    metric.update(tuple(x[:1] for x in maps))
    alone = metric.compute()
    shares = iter((1.0, 1.0))
    monkeypatch.setattr(idist, "all_reduce", lambda number: number + next(shares))
    assert metric.compute() == pytest.approx((alone + 1) / 2)
    slope = LesionSlope(source=0)
    slope.update((maps[0], maps[1], (torch.arange(9) % 4 == 0).float().view(1, 1, 9, 1, 1).expand_as(maps[2])))
    monkeypatch.setattr(idist, "all_gather", lambda points: [points, [[x / 2, y / 2] for x, y in points]])
    points = np.array(slope._points)
    both = np.concatenate([points, points / 2])
    assert len(points) == 9
    assert slope.compute() == pytest.approx(np.polyfit(*both.T, 1)[0])
    assert slope.compute() != pytest.approx(np.polyfit(*points.T, 1)[0])
