"""Draws have their distributions and geometries; smooth noise is normalised and as smooth as asked for."""

import math

import pytest
import torch

from custom_transforms.phantom.random_draws import (
    Draws,
    draw_affine,
    draw_b0_direction,
    draw_in_ball,
    draw_voxel_size_mm,
    gaussian_noise,
    low_pass,
    rotations,
)


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


def test_voxel_sizes() -> None:
    """Half are isotropic; of the others half are long along z and a quarter along each of x and y."""
    size = draw_voxel_size_mm(draws(), (0.5, 2.5), 4.0, 5.0)
    small, middle, large = size.sort(dim=1).values.unbind(1)
    assert torch.equal(small, middle)
    assert float(small.min()) >= 0.5 and float(small.max()) <= 2.5 and float(large.max()) <= 5
    ratio = large / small
    assert 3.9 < float(ratio.max()) <= 4.0001
    assert float(ratio[small > 2.4].max()) <= 5 / 2.4 + 1e-4
    assert float((ratio == 1).float().mean()) == pytest.approx(0.5, abs=0.02)
    longest = (size > small[:, None]).float().mean(dim=0)
    torch.testing.assert_close(longest, torch.tensor([0.125, 0.125, 0.25]), atol=0.01, rtol=0)
    one = draw_voxel_size_mm(draws(3), (1.0, 1.0), 1.0, 5.0)
    assert torch.equal(one, torch.ones(3, 3))


def test_b0_directions() -> None:
    b0 = draw_b0_direction(draws(), 45.0)
    torch.testing.assert_close(b0.norm(dim=1), torch.ones(len(b0)))
    tilt_deg = torch.rad2deg(b0[:, 2].acos())
    assert 44 < float(tilt_deg.max()) <= 45.01 and float(tilt_deg.median()) == pytest.approx(22.5, abs=0.5)
    assert b0[:, :2].mean(dim=0).abs().max() < 0.02  # to all sides
    torch.testing.assert_close(draw_b0_direction(draws(2), 0.0), torch.tensor([[0.0, 0.0, 1.0]] * 2))


def test_affines() -> None:
    """M = R (I + shear) diag(mirror / size): det M = mirror / (product of sizes), M.T M tells scale and shear."""
    only_turned = draw_affine(draws(), rotation_deg=20.0, scaling=0.0, shear=0.0)
    mirror = torch.diag_embed(torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(only_turned.mT @ only_turned, torch.eye(3).expand_as(only_turned), atol=1e-5, rtol=0)
    mirrored = torch.det(only_turned) < 0
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.02)
    rotation = torch.where(mirrored[:, None, None], only_turned @ mirror, only_turned)
    angle_deg = torch.rad2deg(((rotation.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(max=1).acos())
    assert 30 < float(angle_deg.max()) <= 20 * math.sqrt(3) + 0.1  # all three components at their largest
    sheared = draw_affine(draws(), rotation_deg=0.0, scaling=0.0, shear=0.1).abs()
    assert 0.099 < float(sheared.triu(1).max()) <= 0.1 and float(sheared.tril(-1).max()) == 0
    scaled = draw_affine(draws(), rotation_deg=0.0, scaling=0.15, shear=0.0).abs().diagonal(dim1=1, dim2=2)
    assert float(scaled.min()) == pytest.approx(1 / 1.15, rel=1e-3)
    assert float(scaled.max()) == pytest.approx(1 / 0.85, rel=1e-3)


def test_points_in_a_ball() -> None:
    """Uniform: the cube of the radius is uniform, and the mean is the centre."""
    points = draw_in_ball(draws())
    cube = points.norm(dim=1) ** 3
    assert float(cube.max()) <= 1.0001
    quantiles = cube.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quantiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.02, rtol=0)
    assert points.mean(dim=0).abs().max() < 0.02
