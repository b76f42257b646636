"""Coverage against the normal distribution and a loop, rank correlation against SciPy, reliability bins."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from custom_transforms.metrics import Coverage, coverage_percent, rank_correlation, reliability

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.96])
def test_normal_errors(factor: float) -> None:
    torch.manual_seed(0)
    sd = torch.rand(2, 2, 30, 31, 29) + 0.01
    pred, mask = sd * torch.randn(sd.shape), torch.ones(2, 1, 30, 31, 29)
    expected = 100 * (2 * NormalDist().cdf(factor) - 1)
    found = coverage_percent(pred, sd, torch.zeros_like(pred), mask, factor=factor)
    torch.testing.assert_close(found, torch.full((2, 2), expected).double(), atol=1.2, rtol=0.0)


def test_each_volume_and_source_within_its_mask(
    maps: Maps, by_volume: Callable[[Callable[..., float], Maps], np.ndarray]
) -> None:
    pred, truth, mask = maps
    sd = torch.full_like(pred, 0.015)
    expected = by_volume(lambda p, t, m: 100 * float((np.abs(p - t) <= 0.03).astype(float)[m].mean()), maps)
    found = coverage_percent(pred, sd, truth, mask, factor=2.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert len(set(found.flatten().tolist())) > 3
    assert float(coverage_percent(pred, sd, truth, mask, factor=1e3).min()) == 100


@pytest.mark.parametrize("source", [None, 1])
def test_metric_is_the_mean_over_volumes(maps: Maps, source: int | None) -> None:
    pred, truth, mask = maps
    sd, metric = 0.02 * torch.ones_like(pred), Coverage(factor=1.96, source=source)
    for part in (slice(0, 2), slice(2, 3)):
        metric.update(tuple(x[part] for x in (pred, sd, truth, mask)))
    values = coverage_percent(pred, sd, truth, mask, factor=1.96)
    assert metric.compute() == pytest.approx(float((values if source is None else values[:, source]).mean()))


def test_rank_correlation(maps: Maps) -> None:
    pred, truth, mask = maps
    found = rank_correlation(pred, truth, mask)
    for b, c in np.ndindex(3, 2):
        inside = mask[b, 0] > 0
        expected = spearmanr(pred[b, c][inside].numpy(), truth[b, c][inside].numpy()).statistic
        assert float(found[b, c]) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(rank_correlation(pred, -pred.exp(), mask), -torch.ones(3, 2).double())


def test_reliability_of_a_true_standard_deviation() -> None:
    torch.manual_seed(0)
    sd = torch.rand(2, 2, 30, 30, 30) ** 2 + 0.01
    pred, mask = sd * torch.randn(sd.shape), torch.ones(2, 1, 30, 30, 30)
    mask[:, :, 0], sd[:, :, 0] = 0, 50.0  # what is outside does not count
    found = reliability(pred, sd, torch.zeros_like(pred), mask, bins=5)
    assert found.shape == (5, 2, 2)
    torch.testing.assert_close(found[..., 1], found[..., 0], rtol=0.05, atol=0.0)
    assert bool((found[..., 0].diff(dim=0) > 0).all()) and float(found.max()) < 1.1
    twice = reliability(pred, 2 * sd, torch.zeros_like(pred), mask, bins=5)
    torch.testing.assert_close(twice[..., 0], 2 * found[..., 0])
    torch.testing.assert_close(twice[..., 1], found[..., 1])
