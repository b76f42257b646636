"""Streaks are told from other errors: against NumPy's full spectrum, and by a wave on the cone and one off it."""

import math

import numpy as np
import pytest
import torch

from custom_transforms.metrics import nrmse_percent, streaking_percent

VOXEL_MM = (1.0, 1.0, 2.0)
B0 = (0.6, 0.0, 0.8)


def by_numpy(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray, width: float) -> float:
    inside = mask > 0
    error = np.where(inside, pred - truth - (pred - truth)[inside].mean(), 0)
    k = np.stack(np.meshgrid(*map(np.fft.fftfreq, error.shape, VOXEL_MM), indexing="ij"), axis=-1)
    with np.errstate(invalid="ignore"):
        d = np.nan_to_num(1 / 3 - (k @ np.array(B0)) ** 2 / (k**2).sum(-1))
    streaks = np.fft.fftn(error)[np.abs(d) < width]
    return 100 * np.linalg.norm(streaks) / math.sqrt(error.size) / np.linalg.norm(truth[inside] - truth[inside].mean())


def geometry() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([VOXEL_MM], dtype=torch.float64), torch.tensor([B0], dtype=torch.float64)


def test_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 2, 9, 7, 11)  # odd: an even grid has planes where the kernel is an average
    pred, truth = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.rand(1, 1, *shape[2:], generator=generator) > 0.3).double()
    found = streaking_percent(pred, truth, mask, *geometry(), width=0.15)
    expected = [by_numpy(pred[0, c].numpy(), truth[0, c].numpy(), mask[0, 0].numpy(), 0.15) for c in range(2)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)
    everything = streaking_percent(pred, truth, mask, *geometry(), width=1.0)
    torch.testing.assert_close(everything, nrmse_percent(pred, truth, mask, demean=True))
    axial = streaking_percent(pred, truth, mask, geometry()[0], width=0.15)
    assert (axial / found - 1).abs().min() > 0.01


@pytest.mark.parametrize(("wave", "streaks"), [((5, 5, 5), True), ((7, 0, 5), True), ((0, 0, 5), False)])
def test_waves(wave: tuple[int, int, int], streaks: bool) -> None:
    """With B0 along z, D = 0 where k_z^2 = |k|^2 / 3."""
    axes = torch.meshgrid(*[torch.arange(32, dtype=torch.float64) / 32] * 3, indexing="ij")
    error = torch.cos(2 * math.pi * sum(k * x for k, x in zip(wave, axes, strict=True)))[None, None]
    truth = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones_like(truth)
    whole = nrmse_percent(truth + error, truth, mask, demean=True)
    found = streaking_percent(truth + error, truth, mask)
    torch.testing.assert_close(found, whole if streaks else 0 * whole, atol=1e-9, rtol=1e-9)
    assert streaking_percent(truth + 0.1, truth, mask) < 1e-9  # another zero is no streak
