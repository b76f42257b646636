"""NRMSE and PSNR against NumPy and known values; voxels outside of the mask do not count."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from custom_transforms.metrics import masked_mean, nrmse_percent, psnr_db

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def nrmse_by_numpy(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray, demean: bool) -> float:
    p, t = pred[mask], truth[mask]
    if demean:
        p, t = p - p.mean(), t - t.mean()
    return 100 * np.linalg.norm(p - t) / np.linalg.norm(t)


@pytest.mark.parametrize("demean", [False, True])
def test_nrmse_against_numpy(maps: Maps, by_volume: Callable, demean: bool) -> None:
    expected = by_volume(lambda p, t, m: nrmse_by_numpy(p, t, m, demean), maps)
    np.testing.assert_allclose(nrmse_percent(*maps, demean=demean), expected, rtol=1e-12)
    other = by_volume(lambda p, t, m: nrmse_by_numpy(p, t, m, not demean), maps)
    assert np.abs(nrmse_percent(*maps, demean=demean).numpy() - other).min() > 1


def test_psnr_against_numpy(maps: Maps, by_volume: Callable) -> None:
    expected = by_volume(lambda p, t, m: 20 * np.log10(1 / np.sqrt(((p - t)[m] ** 2).mean())), maps)
    np.testing.assert_allclose(psnr_db(*maps), expected, rtol=1e-12)
    np.testing.assert_allclose(psnr_db(*maps, peak_ppm=0.1), expected - 20, rtol=1e-12)


@pytest.mark.parametrize("score", [nrmse_percent, psnr_db])
def test_outside_of_the_mask_does_not_count(maps: Maps, score: Callable) -> None:
    pred, truth, mask = maps
    spoilt = torch.where(mask > 0, pred, torch.nan)
    torch.testing.assert_close(score(spoilt, truth, mask), score(pred, truth, mask))
    assert not torch.allclose(score(pred, truth, torch.ones_like(mask)), score(pred, truth, mask))


def test_known_values(maps: Maps) -> None:
    _, truth, mask = maps
    ones = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(nrmse_percent(1.1 * truth, truth, mask), 10 * ones, rtol=1e-5, atol=0)
    torch.testing.assert_close(nrmse_percent(truth + 1, truth, mask, demean=True), 0 * ones, atol=1e-3, rtol=0)
    torch.testing.assert_close(psnr_db(truth.double() + 0.01, truth, mask), 40 * ones)
    assert psnr_db(truth, truth, mask).isinf().all()


def test_mean_of_an_empty_mask_is_unknown(maps: Maps) -> None:
    assert masked_mean(maps[0], torch.zeros_like(maps[2])).isnan().all()
