"""The oracle: exact where there is nothing to denoise, better than no denoising where there is, and its Gaussian."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from custom_transforms.benchmark.oracle import SIGMAS_VOXELS, separate_with_oracle, smooth_within
from custom_transforms.metrics import nrmse_percent

SHAPE = (2, 1, 15, 12, 17)
Maps = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def mask() -> Tensor:
    """Two different blobs with holes, one of which reaches the edge of the volume."""
    generator = torch.Generator().manual_seed(1)
    full = (torch.rand(SHAPE, generator=generator) > 0.2).float()
    full[0, :, :3], full[1, ..., 9:] = 0, 0
    return full


@pytest.fixture
def noisy(mask: Tensor) -> Callable[[float], Maps]:
    """Give R2'/Dr of smooth sources with noise of an SD (twice as much in the second volume), the sources, the mask."""

    def make(noise_sd_ppm: float) -> Maps:
        x, y, z = torch.meshgrid(*(torch.linspace(0, 3, n) for n in SHAPE[2:]), indexing="ij")
        para, dia = 0.04 + 0.02 * torch.sin(x + y), 0.05 + 0.03 * torch.cos(y - z)
        truth = mask * torch.stack([para, dia]).expand(2, 2, *SHAPE[2:])
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
        noise *= noise_sd_ppm * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1)
        return truth.sum(dim=1, keepdim=True) + noise, truth, mask

    return make


def test_smoothing_is_the_weighted_mean_of_the_mask(mask: Tensor) -> None:
    values = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = smooth_within(values, mask, sigma_voxels=0.8)
    inside = (mask > 0).numpy()
    for b, centre in product(range(2), ((4, 4, 4), (7, 5, 6), (5, 8, 3))):
        box = [slice(c - 3, c + 4) for c in centre]  # the Gaussian ends at three standard deviations, 2.4 voxels
        squares = sum(np.square(step) for step in np.ogrid[-3:4, -3:4, -3:4])
        weights = np.exp(-0.5 * squares / 0.8**2) * inside[b, 0][tuple(box)]
        expected = np.average(values[b, 0].numpy()[tuple(box)], weights=weights) * inside[b, 0][centre]
        assert float(found[b, 0][centre]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS_VOXELS)
def test_constant_sum_is_exact_with_any_gaussian(noisy: Callable[[float], Maps], sigma: float) -> None:
    _, truth, mask = noisy(0.0)
    truth = mask * torch.cat([truth[:, :1], 0.2 - truth[:, :1]], dim=1)
    constant = torch.full(SHAPE, 0.2)
    chi, _ = separate_with_oracle(constant, truth, mask, sigmas_voxels=[sigma])
    torch.testing.assert_close(chi, truth, rtol=1e-5, atol=1e-7)


def test_without_noise_nothing_is_smoothed(noisy: Callable[[float], Maps]) -> None:
    r2prime, truth, mask = noisy(0.0)
    chi, sigma = separate_with_oracle(r2prime, truth, mask)
    assert sigma.tolist() == [0.0, 0.0]
    torch.testing.assert_close(chi, truth, rtol=1e-5, atol=1e-7)


def test_noise_is_smoothed_and_more_of_it_more(noisy: Callable[[float], Maps]) -> None:
    r2prime, truth, mask = noisy(0.004)
    chi, sigma = separate_with_oracle(r2prime, truth, mask)
    errors = nrmse_percent(chi, truth, mask).mean(dim=1)
    raw = nrmse_percent(separate_with_oracle(r2prime, truth, mask, sigmas_voxels=[0.0]).chi, truth, mask).mean(dim=1)
    assert (errors < 0.7 * raw).all()
    assert 0 < sigma[0] < sigma[1]
    for one in SIGMAS_VOXELS:  # the best of the grid for each volume
        fixed = separate_with_oracle(r2prime, truth, mask, sigmas_voxels=[one]).chi
        assert (errors <= nrmse_percent(fixed, truth, mask).mean(dim=1)).all()


def test_two_relaxivities(noisy: Callable[[float], Maps]) -> None:
    _, truth, mask = noisy(0.0)
    weights = torch.tensor([[1.1, 0.9], [0.8, 1.2]])
    rate = (weights[:, :, None, None, None] * truth).sum(dim=1, keepdim=True)
    chi, sigma = separate_with_oracle(rate, truth, mask, weights)
    torch.testing.assert_close(chi, truth, rtol=1e-5, atol=1e-7)
    assert sigma.tolist() == [0.0, 0.0]
    assert nrmse_percent(separate_with_oracle(rate, truth, mask).chi, truth, mask).min() > 2


def test_sources_stay_non_negative_inside_the_mask_and_zero_outside(noisy: Callable[[float], Maps]) -> None:
    r2prime, truth, mask = noisy(0.2)
    chi, _ = separate_with_oracle(r2prime, truth, mask, sigmas_voxels=[0.0])
    assert chi.min() == 0 and not chi[(mask == 0).expand_as(chi)].any()


@pytest.mark.parametrize("sigmas", [(), (0.5, -0.1)])
def test_bad_grid(noisy: Callable[[float], Maps], sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="none of them negative"):
        separate_with_oracle(*noisy(0.0), sigmas_voxels=sigmas)
