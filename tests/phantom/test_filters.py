import math

import pytest
import torch

from custom_transforms.phantom.filters import distance_voxels, gaussian_smooth, smooth_noise


def test_smoothing_a_point_gives_a_gaussian():
    sigma = 1.2
    point = torch.zeros(1, 21, 21, 21)
    point[0, 10, 10, 10] = 1
    blurred = gaussian_smooth(point, sigma_voxels=sigma)
    assert math.isclose(float(blurred.sum()), 1, rel_tol=1e-5)
    assert math.isclose(float(blurred[0, 12, 9, 10] / blurred[0, 10, 10, 10]), math.exp(-2.5 / sigma**2), rel_tol=1e-4)


def test_smoothing_keeps_constants_up_to_the_edge():
    constant = torch.full((2, 6, 5, 4), 3.0)
    torch.testing.assert_close(gaussian_smooth(constant, sigma_voxels=1.0), constant)


def correlation(noise: torch.Tensor, lag: int) -> float:
    return float((noise[:, lag:] * noise[:, :-lag]).mean() / noise.square().mean())


@pytest.mark.parametrize("length", [3.0, 8.0])
def test_noise_has_the_promised_sd_and_correlation(length):
    noise = smooth_noise((80, 70, 60), length_voxels=length, channels=3, generator=torch.Generator().manual_seed(1))
    assert noise.shape == (3, 80, 70, 60)
    assert abs(float(noise.std()) - 1) < 0.1
    lag = round(length)
    assert abs(correlation(noise, lag) - math.exp(-((lag / length) ** 2))) < 0.06
    assert abs(correlation(noise, 2 * lag) - math.exp(-1)) > 0.2  # the check can fail: at twice the lag


def test_distance_agrees_with_brute_force():
    mask = torch.rand(9, 12, 7, generator=torch.Generator().manual_seed(2)) > 0.98
    everywhere = torch.ones_like(mask).nonzero().float()
    expected = torch.cdist(everywhere, mask.nonzero().float()).amin(1).view(mask.shape).clamp(max=4)
    torch.testing.assert_close(distance_voxels(mask, limit_voxels=4), expected)
    assert not torch.allclose(distance_voxels(mask.flip(0), limit_voxels=4), expected)
