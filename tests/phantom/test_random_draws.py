"""Draws have their distributions; smooth noise is normalised and as smooth as asked for."""

import math

import pytest
import torch

from custom_transforms.phantom.random_draws import Draws, gaussian_noise, low_pass, rotations


def draws(batch: int = 20000, seed: int = 0) -> Draws:
    return Draws(batch, torch.Generator().manual_seed(seed), torch.device("cpu"))


def test_distributions() -> None:
    uniform = draws().uniform(2.0, 4.0)
    assert float(uniform.mean()) == pytest.approx(3, abs=0.02)
    assert float(uniform.min()) >= 2 and float(uniform.max()) <= 4
    log_uniform = draws().log_uniform(0.1, 10.0)
    assert float(log_uniform.median()) == pytest.approx(1, rel=0.1)
    log_normal = draws().log_normal(3.0, 0.5)
    assert float(log_normal.median()) == pytest.approx(3, rel=0.03)
    assert float(log_normal.log().std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(draws(seed=1).normal((3,)), draws(seed=1).normal((3,)))
    assert not torch.equal(draws(seed=1).normal((3,)), draws(seed=2).normal((3,)))


def test_low_pass_is_a_gaussian() -> None:
    """A point becomes a Gaussian of SD sigma in units of the mean voxel size: narrower along thick voxels."""
    point = torch.zeros(1, 1, 33, 33, 33)
    point[..., 16, 16, 16] = 1
    size = torch.tensor([[1.0, 1.0, 2.0]])
    blurred = low_pass(point, size, sigma=torch.tensor([2.0]))[0, 0]
    mean_size = 2 ** (1 / 3)
    index = torch.arange(33.0) - 16
    for axis, voxel in enumerate(size[0].tolist()):
        profile = blurred.sum(dim=[a for a in range(3) if a != axis])
        assert float(profile.sum()) == pytest.approx(1, rel=1e-4)
        sd = math.sqrt(float((profile * index**2).sum()))
        assert sd == pytest.approx(2.0 * mean_size / voxel, rel=0.01)


def test_noise_is_normalised() -> None:
    noise = gaussian_noise(draws(2), 3, (12, 10, 8), torch.ones(2, 3), sigma=torch.tensor([1.0, 2.0]))
    assert noise.shape == (2, 3, 12, 10, 8)
    torch.testing.assert_close(noise.mean(dim=(2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.std(dim=(2, 3, 4)), torch.ones(2, 3))
    steps = noise.diff(dim=2).abs().mean(dim=(1, 2, 3, 4))
    assert steps[0] > 1.2 * steps[1]


def test_noise_longer_than_the_volume() -> None:
    """In float32 such a filter leaves nothing but the mean, and 0 / 0."""
    noise = gaussian_noise(draws(50), 1, (12, 10, 8), torch.ones(50, 3), sigma=torch.full((50,), 15.0))
    torch.testing.assert_close(noise.std(dim=(2, 3, 4)), torch.ones(50, 1))
    plain = low_pass(draws(50).normal((1, 12, 10, 8)), torch.ones(50, 3), sigma=torch.full((50,), 15.0))
    assert plain.std(dim=(2, 3, 4)).max() < 1e-6


def test_rotations_are_orthonormal() -> None:
    frame = rotations(draws(5), 2).flatten(0, 1)
    torch.testing.assert_close(frame @ frame.mT, torch.eye(3).expand(10, 3, 3), atol=1e-5, rtol=0)
