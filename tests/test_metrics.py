"""NRMSE against numpy, and its mean over volumes."""

import numpy as np
import pytest
import torch

from custom_transforms.metrics import NRMSE, nrmse_percent


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred, truth = (torch.rand(3, 2, 4, 5, 6, generator=generator) for _ in range(2))
    mask = (torch.rand(3, 1, 4, 5, 6, generator=generator) > 0.3).float()
    return pred, truth, mask


def by_numpy(pred: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor, demean: bool) -> np.ndarray:
    result = np.empty(pred.shape[:2])
    for b, c in np.ndindex(*result.shape):
        p, t = (x[b, c].numpy()[mask[b, 0].numpy() > 0].astype(float) for x in (pred, truth))
        if demean:
            p, t = p - p.mean(), t - t.mean()
        result[b, c] = 100 * np.sqrt(((p - t) ** 2).sum() / (t**2).sum())
    return result


@pytest.mark.parametrize("demean", [False, True])
def test_against_numpy(volumes: tuple[torch.Tensor, ...], demean: bool) -> None:
    found = nrmse_percent(*volumes, demean=demean)
    np.testing.assert_allclose(found.numpy(), by_numpy(*volumes, demean), rtol=1e-5)


def test_outside_of_the_mask_does_not_count(volumes: tuple[torch.Tensor, ...]) -> None:
    pred, truth, mask = volumes
    spoilt = torch.where(mask > 0, pred, torch.nan)
    torch.testing.assert_close(nrmse_percent(spoilt, truth, mask), nrmse_percent(pred, truth, mask))
    everywhere = nrmse_percent(pred, truth, torch.ones_like(mask))
    assert not torch.allclose(everywhere, nrmse_percent(pred, truth, mask))


def test_known_values(volumes: tuple[torch.Tensor, ...]) -> None:
    _, truth, mask = volumes
    torch.testing.assert_close(nrmse_percent(1.1 * truth, truth, mask), torch.full((3, 2), 10.0))
    shifted = nrmse_percent(truth + 1, truth, mask, demean=True)
    torch.testing.assert_close(shifted, torch.zeros(3, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("source", [None, 0, 1])
def test_metric_is_the_mean_over_volumes(volumes: tuple[torch.Tensor, ...], source: int | None) -> None:
    metric = NRMSE(source=source)
    for part in (slice(0, 2), slice(2, 3)):
        metric.update(tuple(x[part] for x in volumes))
    expected = by_numpy(*volumes, False)
    assert metric.compute() == pytest.approx((expected if source is None else expected[:, source]).mean(), rel=1e-5)
    metric.reset()
    with pytest.raises(ValueError, match="at least one volume"):
        metric.compute()
